//! What can be wrong with a schema, in words that repeat nothing of it but keywords of JSON Schema.

/// Why a shape was not compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// Not an object.
    #[error("a schema is a JSON object")]
    NotAnObject,
    /// Beyond one of the bounds.
    #[error("the schema has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many are accepted.
        limit: usize,
    },
    /// A keyword that is not supported.
    #[error("the schema uses '{0}', which is not supported")]
    Keyword(&'static str),
    /// A keyword that no JSON Schema of this server's draft has.
    #[error("the schema uses a keyword that is not supported")]
    UnknownKeyword,
    /// A format that is not known.
    #[error("the schema uses a 'format' that is not supported")]
    Format,
    /// A regular expression that cannot be used.
    #[error(
        "the schema has a 'pattern' or 'patternProperties' that is no supported regular expression, or overlaps with \
         another one"
    )]
    Pattern,
    /// A reference that leads nowhere, outside, or back to itself.
    #[error(
        "the schema has a '$ref' that does not lead to a part of the schema, as in '#/$defs/name'"
    )]
    Reference,
    /// Alternatives that are not told apart.
    #[error("the schema has a 'oneOf' whose alternatives may hold at once; use 'anyOf'")]
    Alternatives,
    /// No value is right.
    #[error("the schema allows no value")]
    Impossible,
    /// More work than is done for one schema.
    #[error("the schema needs more work than is done for one; make it smaller or less nested")]
    TooComplex,
    /// Something else.
    #[error("this is not a JSON Schema that is supported")]
    Unsupported,
    /// Too many are being compiled.
    #[error("too many schemas are being compiled; try again later")]
    Busy,
}

/// Nothing may follow, or it takes too much work to say what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer's grammar allows no token, or needs more work than is done for one token")]
pub struct Stuck;

/// Keywords of JSON Schema (drafts 4 to 2020-12) that an error may name.
const KEYWORDS: [&str; 24] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "additionalItems",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$anchor",
];

impl GrammarError {
    /// What the library's words mean. They may repeat the schema, so none of them is passed on.
    pub(super) fn of(said: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if let Some((_, names)) = said.split_once("Unimplemented keys:") {
            let named = |keyword: &&&str| names.contains(&format!("\"{keyword}\""));
            let keyword = KEYWORDS.iter().find(named);
            return keyword.map_or(Self::UnknownKeyword, |keyword| Self::Keyword(keyword));
        }
        if has(&["panic"]) {
            Self::Unsupported
        } else if has(&["Unsatisfiable", "NoExtension", "not eaten"]) {
            Self::Impossible
        } else if has(&["oneOf"]) {
            Self::Alternatives
        } else if has(&["Unknown format"]) {
            Self::Format
        } else if has(&[
            "regex parse error",
            "disjoint",
            "patternProperty",
            "Unable to determine",
        ]) {
            Self::Pattern
        } else if has(&["$ref", "Reference", "circular", "Definition not found"]) {
            Self::Reference
        } else if has(&["too ", "Too ", "fuel", "limit", "max is"]) {
            Self::TooComplex
        } else {
            Self::Unsupported
        }
    }
}
