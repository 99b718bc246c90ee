//! Server-sent events of `/v1/completions`, as both servers send them. Pure.

use serde::Deserialize;

/// What an event says, as far as it is used here.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// More text; it may be empty.
    Text(String),
    /// Token counts, and more text that came with them.
    Usage {
        /// The text.
        text: String,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the answer.
        answer: usize,
    },
    /// The stream is complete.
    Done,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    text: String,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

/// Puts events together from pieces of a body.
#[derive(Default)]
pub struct Events {
    unread: Vec<u8>,
}

impl Events {
    /// Takes a piece; `hear` is called with each event that is now complete.
    ///
    /// # Errors
    /// An event that is none of ours, an error that the server sent among them.
    pub fn push(&mut self, piece: &[u8], mut hear: impl FnMut(Said)) -> anyhow::Result<()> {
        self.unread.extend_from_slice(piece);
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let line = str::from_utf8(&line)?.trim();
            match line.strip_prefix("data:").map(str::trim_start) {
                Some("[DONE]") => hear(Said::Done),
                Some(data) => hear(read(data)?),
                // Empty lines end events, and comments keep connections open.
                None if line.is_empty() || line.starts_with(':') => {}
                None => anyhow::bail!("the server sent {line:?}"),
            }
        }
        Ok(())
    }
}

fn read(data: &str) -> anyhow::Result<Said> {
    let document: Document = serde_json::from_str(data)?;
    if document.choices.is_empty() && document.usage.is_none() {
        anyhow::bail!("the server sent {data}");
    }
    let text = document.choices.into_iter().map(|choice| choice.text);
    let text = text.collect();
    Ok(match document.usage {
        None => Said::Text(text),
        Some(usage) => Said::Usage {
            text,
            prompt: usage.prompt_tokens,
            answer: usage.completion_tokens,
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"index\":0,\"text\":\"so \",\"finish_reason\":null}],\"usage\":null}\n\n\
        : still there\n\n\
        data: {\"choices\":[{\"text\":\"ö\"}]}\r\n\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn events_are_the_same_wherever_the_body_is_cut() {
        let expected = [
            Said::Text("so ".into()),
            Said::Text("ö".into()),
            Said::Usage {
                text: String::new(),
                prompt: 9,
                answer: 2,
            },
            Said::Done,
        ];
        for size in [1, 2, 7, 1000] {
            let (mut events, mut heard) = (Events::default(), Vec::new());
            for piece in STREAM.as_bytes().chunks(size) {
                events.push(piece, |said| heard.push(said)).unwrap();
            }
            assert_eq!(heard, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bad in [
            "data: {\"error\":{\"message\":\"full\"}}\n",
            "data: {\n",
            "oops\n",
        ] {
            let mut events = Events::default();
            assert!(events.push(bad.as_bytes(), |_| {}).is_err(), "{bad:?}");
        }
    }
}
