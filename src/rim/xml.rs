//! The small part of XML that manifests are written in (rule R-1): elements, attributes, text, five entities, numbers of characters.
//!
//! Everything by which two readers could see two documents is refused: document types (and with them entities of one's own),
//! comments, processing instructions, CDATA, names that are not ASCII, attributes twice, prefixes that are not declared.

use std::collections::BTreeMap;

use super::error::RimError;

/// Longest manifest, in bytes. NVIDIA's have less than 26,000.
pub(super) const BYTES_MAX: usize = 256 * 1024;
const DEPTH_MAX: usize = 12;
const ELEMENTS_MAX: usize = 2048;
const ATTRIBUTES_MAX: usize = 96;

/// An attribute: its prefix and name as written, its namespace, its value with references resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) local: String,
    pub(super) value: String,
}

/// An element with the prefixes in force in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) local: String,
    pub(super) attributes: Vec<Attribute>,
    /// Namespaces by prefix, the default one under the empty prefix.
    pub(super) scope: BTreeMap<String, String>,
    pub(super) children: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    /// Reads a document: one element, white space around it, perhaps a declaration before it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, RimError> {
        let wrong = |what| RimError::Xml { what, at: 0 };
        if bytes.len() > BYTES_MAX {
            return Err(wrong("it has more than 262144 bytes"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
        // XML 1.0, 2.11: a reader sees one kind of line end.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        if !text.chars().all(is_char) {
            return Err(wrong("it has a character that XML has not"));
        }
        let mut parser = Parser {
            text: &text,
            at: 0,
            elements: 0,
        };
        parser.declaration()?;
        parser.space();
        let element = parser.element(&BTreeMap::new(), 0)?;
        parser.space();
        match parser.rest().is_empty() {
            true => Ok(element),
            false => Err(parser.wrong("something follows its one element")),
        }
    }

    pub(super) fn is(&self, namespace: &str, local: &str) -> bool {
        self.namespace == namespace && self.local == local
    }

    /// The value of an attribute of no namespace.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|it| it.name == name);
        found.map(|it| it.value.as_str())
    }

    /// Child elements. `None` where there is text between them.
    pub(super) fn elements(&self) -> Option<Vec<&Self>> {
        let mut all = Vec::new();
        for child in &self.children {
            match child {
                Node::Element(element) => all.push(element),
                Node::Text(text) if text.chars().all(|it| it.is_ascii_whitespace()) => {}
                Node::Text(_) => return None,
            }
        }
        Some(all)
    }

    /// The text of an element that has nothing but text.
    pub(super) fn text(&self) -> Option<&str> {
        match self.children.as_slice() {
            [Node::Text(text)] => Some(text),
            _ => None,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    elements: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, what: &'static str) -> RimError {
        RimError::Xml { what, at: self.at }
    }

    fn eat(&mut self, token: &str) -> bool {
        let eaten = self.rest().starts_with(token);
        if eaten {
            self.at = self.at.saturating_add(token.len());
        }
        eaten
    }

    fn expect(&mut self, token: &str, what: &'static str) -> Result<(), RimError> {
        match self.eat(token) {
            true => Ok(()),
            false => Err(self.wrong(what)),
        }
    }

    /// Takes what holds for each character, and says how much that was.
    fn take(&mut self, holds: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|it| !holds(it)).unwrap_or(rest.len());
        self.at = self.at.saturating_add(length);
        rest.get(..length).unwrap_or_default()
    }

    fn space(&mut self) -> bool {
        !self.take(is_space).is_empty()
    }

    /// `<?xml version="1.0" encoding="UTF-8"?>`, or none.
    fn declaration(&mut self) -> Result<(), RimError> {
        if !self.rest().starts_with("<?xml ") {
            return Ok(());
        }
        let end = self
            .rest()
            .find("?>")
            .ok_or(self.wrong("its declaration does not end"))?;
        let inside = self.rest().get(..end).unwrap_or_default();
        let words = inside.to_ascii_lowercase().replace('\'', "\"");
        let words: Vec<_> = words.split_ascii_whitespace().collect();
        let known = matches!(
            words.as_slice(),
            ["<?xml", "version=\"1.0\""]
                | ["<?xml", "version=\"1.0\"", "encoding=\"utf-8\""]
                | [
                    "<?xml",
                    "version=\"1.0\"",
                    "encoding=\"utf-8\"",
                    "standalone=\"yes\""
                ]
        );
        if !known {
            return Err(self.wrong("its declaration says something else than XML 1.0 in UTF-8"));
        }
        self.at = self.at.saturating_add(end).saturating_add(2);
        Ok(())
    }

    fn element(
        &mut self,
        outer: &BTreeMap<String, String>,
        depth: usize,
    ) -> Result<Element, RimError> {
        if depth >= DEPTH_MAX {
            return Err(self.wrong("it is nested deeper than 12 elements"));
        }
        self.elements = self.elements.saturating_add(1);
        if self.elements > ELEMENTS_MAX {
            return Err(self.wrong("it has more than 2048 elements"));
        }
        if self.rest().starts_with("<!") || self.rest().starts_with("<?") {
            let what = "it has a comment, CDATA, a document type or an instruction";
            return Err(self.wrong(what));
        }
        self.expect("<", "an element is missing")?;
        let name = self.name()?;
        let (scope, attributes, empty) = self.attributes(outer)?;
        let (namespace, local) = self.resolved(&name, &scope, true)?;
        let mut element = Element {
            name,
            namespace,
            local,
            attributes,
            scope,
            children: Vec::new(),
        };
        if !empty {
            self.content(&mut element, depth)?;
        }
        Ok(element)
    }

    fn content(&mut self, element: &mut Element, depth: usize) -> Result<(), RimError> {
        loop {
            let text = self.characters('<', false)?;
            if !text.is_empty() {
                element.children.push(Node::Text(text));
            }
            if self.eat("</") {
                if self.name()? != element.name {
                    return Err(self.wrong("an element ends under another name"));
                }
                self.space();
                return self.expect(">", "the end of an element does not end");
            }
            let depth = depth.saturating_add(1);
            let child = self.element(&element.scope, depth)?;
            element.children.push(Node::Element(child));
        }
    }

    /// Namespaces in force, attributes, and whether the element ends right there.
    #[expect(
        clippy::type_complexity,
        reason = "three parts of one tag, taken apart at once"
    )]
    fn attributes(
        &mut self,
        outer: &BTreeMap<String, String>,
    ) -> Result<(BTreeMap<String, String>, Vec<Attribute>, bool), RimError> {
        let mut written: Vec<(String, String)> = Vec::new();
        let empty = loop {
            let spaced = self.space();
            if self.eat("/>") {
                break true;
            }
            if self.eat(">") {
                break false;
            }
            if !spaced || written.len() >= ATTRIBUTES_MAX {
                return Err(self.wrong("a tag is malformed, or has more than 96 attributes"));
            }
            let name = self.name()?;
            self.space();
            self.expect("=", "an attribute has no value")?;
            self.space();
            let quote = if self.eat("\"") {
                '"'
            } else {
                self.expect("'", "an attribute's value has no quotes")?;
                '\''
            };
            let value = self.characters(quote, true)?;
            self.expect(
                if quote == '"' { "\"" } else { "'" },
                "a value does not end",
            )?;
            if written.iter().any(|(other, _)| *other == name) {
                return Err(self.wrong("an attribute is there twice"));
            }
            written.push((name, value));
        };
        let scope = self.declared(outer, &written)?;
        let mut attributes: Vec<Attribute> = Vec::new();
        for (name, value) in written {
            if name == "xmlns" || name.starts_with("xmlns:") {
                continue;
            }
            let (namespace, local) = self.resolved(&name, &scope, false)?;
            let twice = |it: &Attribute| it.local == local && it.namespace == namespace;
            if attributes.iter().any(twice) {
                return Err(self.wrong("an attribute is there twice"));
            }
            attributes.push(Attribute {
                name,
                namespace,
                local,
                value,
            });
        }
        Ok((scope, attributes, empty))
    }

    fn declared(
        &self,
        outer: &BTreeMap<String, String>,
        written: &[(String, String)],
    ) -> Result<BTreeMap<String, String>, RimError> {
        let mut scope = outer.clone();
        for (name, value) in written {
            let prefix = match name.strip_prefix("xmlns") {
                Some("") => "",
                Some(rest) => match rest.strip_prefix(':') {
                    Some(prefix) => prefix,
                    None => continue,
                },
                None => continue,
            };
            if value.is_empty() || prefix.starts_with("xml") {
                return Err(self.wrong("a namespace is taken back, or a reserved one declared"));
            }
            scope.insert(prefix.to_owned(), value.clone());
        }
        Ok(scope)
    }

    /// The namespace and the name behind the prefix. An attribute without a prefix has no namespace.
    fn resolved(
        &self,
        name: &str,
        scope: &BTreeMap<String, String>,
        element: bool,
    ) -> Result<(String, String), RimError> {
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        if prefix.is_empty() && !element {
            return Ok((String::new(), local.to_owned()));
        }
        match scope.get(prefix) {
            Some(namespace) => Ok((namespace.clone(), local.to_owned())),
            None if prefix.is_empty() => Ok((String::new(), local.to_owned())),
            None => Err(self.wrong("a prefix is not declared")),
        }
    }

    /// `name` or `prefix:name`, in ASCII.
    fn name(&mut self) -> Result<String, RimError> {
        let name =
            self.take(|it| it.is_ascii_alphanumeric() || matches!(it, ':' | '_' | '-' | '.'));
        let starts =
            |part: &str| part.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_');
        let parts: Vec<_> = name.split(':').collect();
        match parts.len() <= 2 && parts.iter().all(|part| starts(part)) {
            true => Ok(name.to_owned()),
            false => Err(self.wrong("a name is missing, or not a name in ASCII")),
        }
    }

    /// Text up to `end`, with references resolved. In attributes white space is a space (XML 1.0, 3.3.3).
    fn characters(&mut self, end: char, attribute: bool) -> Result<String, RimError> {
        let mut out = String::new();
        loop {
            let plain = self.take(|it| it != end && it != '&' && it != '<');
            if !attribute && plain.contains("]]>") {
                return Err(self.wrong("it has the end of a CDATA that did not begin"));
            }
            match attribute {
                true => out.extend(plain.chars().map(|it| if is_space(it) { ' ' } else { it })),
                false => out.push_str(plain),
            }
            match self.rest().chars().next() {
                Some('&') => out.push(self.reference()?),
                Some(next) if next == end => return Ok(out),
                _ => return Err(self.wrong("it ends early, or has '<' in a value")),
            }
        }
    }

    fn reference(&mut self) -> Result<char, RimError> {
        self.eat("&");
        let name = self.take(|it| it.is_ascii_alphanumeric() || it == '#');
        self.expect(";", "a reference does not end")?;
        let number = |digits: &str, base| u32::from_str_radix(digits, base).ok();
        let found = match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => {
                let number = match name.strip_prefix("#x") {
                    Some(digits) => number(digits, 16),
                    None => name.strip_prefix('#').and_then(|digits| number(digits, 10)),
                };
                number.and_then(char::from_u32).filter(|it| is_char(*it))
            }
        };
        found.ok_or(self.wrong("a reference is to none of the five entities and no character"))
    }
}

fn is_space(it: char) -> bool {
    matches!(it, ' ' | '\t' | '\n' | '\r')
}

/// XML 1.0, 2.2.
fn is_char(it: char) -> bool {
    matches!(it, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
