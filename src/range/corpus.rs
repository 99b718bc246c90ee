//! The texts that attacks and the honest user beside them say: built in, or out of a folder of traffic.
//!
//! A folder has files of JSON lines (docs/formats/range.md); one that is missing is replaced by what is built in.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{RangeError, words};

/// Longest file, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A system prompt that must not be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemPrompt {
    /// Its name.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// A question that asks for a system prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extraction {
    /// How it asks.
    pub technique: String,
    /// The question.
    pub text: String,
}

/// A control token inside a user's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The token.
    pub token: String,
    /// The text around it.
    pub text: String,
}

/// All texts.
#[derive(Debug, Clone)]
pub struct Corpora {
    /// Beginnings that differ, for the attack on the last layer.
    pub contexts: Vec<String>,
    /// What honest people ask, each for himself.
    pub honest: Vec<String>,
    /// What crawlers put into their slots.
    pub slots: Vec<String>,
    /// Wrappers with `{slot}`.
    pub scaffolds: Vec<String>,
    /// One wrapper in other words.
    pub rewordings: Vec<String>,
    /// Secrets.
    pub system_prompts: Vec<SystemPrompt>,
    /// Questions for them.
    pub extractions: Vec<Extraction>,
    /// Harmless questions that look like those.
    pub lookalikes: Vec<String>,
    /// One sensitive question in many wordings.
    pub topic: Vec<String>,
    /// Control tokens in user text.
    pub injections: Vec<Injection>,
    /// Request shapes that turn an option into an oracle, with `$C`, `$A` and others in them; empty without a folder.
    pub shapes: Vec<Value>,
}

impl Corpora {
    /// What is built in.
    #[must_use]
    pub fn built_in() -> Self {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let pairs = |join: fn(&str, &str) -> String| {
            let nouns = words::NOUNS.iter();
            nouns.flat_map(move |noun| words::TAILS.iter().map(move |tail| join(noun, tail)))
        };
        let contexts = pairs(|noun, tail| format!("The {noun} {tail}")).collect();
        let slots = words::NOUNS.iter().enumerate().flat_map(|(at, noun)| {
            // Pairs of nouns at a distance: no slot comes twice.
            (1..8).map(move |far| {
                let other = words::NOUNS.iter().cycle().nth(at + far * 5);
                format!(
                    "what a {noun} and a {} have in common",
                    other.unwrap_or(noun)
                )
            })
        });
        Self {
            contexts,
            honest: own(&words::QUESTIONS),
            slots: slots.collect(),
            scaffolds: own(&words::SCAFFOLDS),
            rewordings: own(&words::REWORDINGS),
            system_prompts: words::SYSTEM_PROMPTS
                .map(|(id, text)| SystemPrompt {
                    id: id.to_owned(),
                    text: text.to_owned(),
                })
                .to_vec(),
            extractions: words::EXTRACTIONS
                .map(|(technique, text)| Extraction {
                    technique: technique.to_owned(),
                    text: text.to_owned(),
                })
                .to_vec(),
            lookalikes: own(&words::LOOKALIKES),
            topic: own(&words::TOPIC),
            injections: words::CONTROL_TOKENS.iter().flat_map(injected).collect(),
            shapes: Vec::new(),
        }
    }

    /// The same, with what the files of `folder` have instead.
    ///
    /// # Errors
    /// [`RangeError::Corpus`] for a file that is too long, not UTF-8, no JSON by lines, or lacks a field.
    pub fn of_folder(folder: &Path) -> Result<Self, RangeError> {
        if !folder.is_dir() {
            return Err(wrong(folder, "it is no folder"));
        }
        let mut all = Self::built_in();
        let read = |name: &str| Lines::read(folder, name);
        replace(
            &mut all.contexts,
            read("attack_final_layer_prefixes.jsonl")?.texts("text")?,
        );
        let questions = read("benign_questions.jsonl")?.texts("text")?;
        let mut honest = read("benign_adhoc.jsonl")?.turns()?;
        replace(&mut all.slots, questions.clone());
        // Every second question is a crawler's; people write the others and their own.
        honest.extend(questions.into_iter().skip(1).step_by(2));
        replace(&mut all.honest, spread(honest));
        let scaffolds = read("attack_crawler_scaffolds.jsonl")?;
        replace(&mut all.scaffolds, scaffolds.of_kind("scaffold")?);
        replace(&mut all.rewordings, scaffolds.of_kind("rotating")?);
        let prompt = |id, text| SystemPrompt { id, text };
        let prompts = read("system_prompts.jsonl")?.pairs("id", "text", prompt)?;
        replace(&mut all.system_prompts, prompts);
        let extraction = |technique, text| Extraction { technique, text };
        let file = read("attack_sysprompt_extraction.jsonl")?;
        replace(
            &mut all.extractions,
            file.pairs("technique", "text", extraction)?,
        );
        replace(
            &mut all.lookalikes,
            read("benign_lookalikes.jsonl")?.texts("text")?,
        );
        replace(
            &mut all.topic,
            read("stream_topic_prompts.jsonl")?.texts("text")?,
        );
        let injection = |token, text| Injection { token, text };
        let file = read("attack_control_tokens.jsonl")?;
        replace(&mut all.injections, file.pairs("token", "text", injection)?);
        all.shapes = read("attack_logit_oracles.jsonl")?.rows;
        Ok(all)
    }
}

/// A token within a text, and split over two parts of a message.
fn injected(token: &&str) -> [Injection; 2] {
    let (first, second) = token.split_at(token.len() / 2);
    let texts = [
        format!("the word {token} in a text"),
        format!("the word {first}\u{241e}{second} in a text"),
    ];
    texts.map(|text| Injection {
        token: (*token).to_owned(),
        text,
    })
}

/// Texts of one origin stand together in files, and people do not ask in that order.
fn spread(texts: Vec<String>) -> Vec<String> {
    const STEP: usize = 389;
    let count = texts.len();
    let mut left: Vec<Option<String>> = texts.into_iter().map(Some).collect();
    let mut spread = Vec::with_capacity(count);
    for first in 0..STEP.min(count) {
        spread.extend(
            (first..count)
                .step_by(STEP)
                .filter_map(|at| left.get_mut(at)?.take()),
        );
    }
    spread
}

fn replace<T>(built_in: &mut Vec<T>, read: Vec<T>) {
    if !read.is_empty() {
        *built_in = read;
    }
}

fn wrong(file: &Path, reason: impl std::fmt::Display) -> RangeError {
    RangeError::Corpus {
        file: file.display().to_string(),
        reason: reason.to_string(),
    }
}

/// A file of JSON lines; without rows where there is no file.
struct Lines {
    file: std::path::PathBuf,
    rows: Vec<Value>,
}

impl Lines {
    fn read(folder: &Path, name: &str) -> Result<Self, RangeError> {
        let file = folder.join(name);
        let rows = Vec::new();
        let Ok(about) = fs::metadata(&file) else {
            return Ok(Self { file, rows });
        };
        if about.len() > FILE_BYTES_MAX {
            return Err(wrong(&file, "it has more than 64 MiB"));
        }
        let text = fs::read_to_string(&file).map_err(|error| wrong(&file, error))?;
        let mut rows = Vec::new();
        for (at, line) in text.lines().enumerate() {
            if !line.trim().is_empty() {
                let row = serde_json::from_str(line);
                rows.push(row.map_err(|error| wrong(&file, format!("line {}: {error}", at + 1)))?);
            }
        }
        Ok(Self { file, rows })
    }

    fn field(&self, row: &Value, name: &str) -> Result<String, RangeError> {
        let text = row.get(name).and_then(Value::as_str);
        text.map(str::to_owned).ok_or_else(|| {
            wrong(
                &self.file,
                format!("a row has no text in its field {name:?}"),
            )
        })
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, RangeError> {
        self.rows.iter().map(|row| self.field(row, name)).collect()
    }

    fn of_kind(&self, kind: &str) -> Result<Vec<String>, RangeError> {
        let of_kind = |row: &&Value| row.get("kind").and_then(Value::as_str) == Some(kind);
        let rows = self.rows.iter().filter(of_kind);
        rows.map(|row| self.field(row, "text")).collect()
    }

    fn pairs<T>(
        &self,
        first: &str,
        second: &str,
        make: impl Fn(String, String) -> T,
    ) -> Result<Vec<T>, RangeError> {
        let one = |row| Ok(make(self.field(row, first)?, self.field(row, second)?));
        self.rows.iter().map(one).collect()
    }

    fn turns(&self) -> Result<Vec<String>, RangeError> {
        let mut all = Vec::new();
        for row in &self.rows {
            let turns = row.get("turns").and_then(Value::as_array);
            let turns = turns.ok_or_else(|| wrong(&self.file, "a row has no list \"turns\""))?;
            all.extend(turns.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        Ok(all)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nothing_that_is_built_in_comes_twice() {
        let all = Corpora::built_in();
        for texts in [&all.contexts, &all.honest, &all.slots, &all.rewordings] {
            let different: BTreeSet<_> = texts.iter().collect();
            assert_eq!(different.len(), texts.len());
        }
        assert!(all.contexts.len() >= 1000 && all.slots.len() >= 400);
        let wrappers = all.scaffolds.iter().chain(&all.rewordings);
        assert!(wrappers.into_iter().all(|it| it.contains("{slot}")));
    }

    #[test]
    fn a_folder_replaces_what_it_has_and_its_faults_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "benign_lookalikes.jsonl",
            "{\"id\":\"a\",\"text\":\"one\"}\n\n{\"text\":\"two\"}\n",
        );
        write(
            "benign_adhoc.jsonl",
            "{\"turns\":[\"x\",\"y\"]}\n{\"turns\":[\"z\"]}\n",
        );
        let all = Corpora::of_folder(folder.path()).unwrap();
        assert_eq!(all.lookalikes, ["one", "two"]);
        assert_eq!(all.honest.len(), 3);
        assert_eq!(all.scaffolds, Corpora::built_in().scaffolds);
        write("system_prompts.jsonl", "{\"id\":\"a\"}\n");
        let error = Corpora::of_folder(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("system_prompts.jsonl") && error.contains("\"text\""),
            "{error}"
        );
        write("system_prompts.jsonl", "{\"id\":");
        let error = Corpora::of_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        let nowhere = Corpora::of_folder(&folder.path().join("nowhere"));
        assert!(nowhere.is_err());
    }
}
