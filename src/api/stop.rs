//! Stop sequences. Text that could still become one is held back; text before one is let go; text behind one is dropped.

/// Watches a growing text for stop sequences.
#[derive(Debug)]
pub struct StopWatch {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopWatch {
    /// Watches for any of `stops`.
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
            stopped: false,
        }
    }

    /// Adds text and returns what is certain now.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = first {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len().saturating_sub(keep));
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop sequence was met.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// What was held back in vain.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that begins `stop`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).skip(1);
    lengths
        .filter(|length| {
            stop.get(..*length)
                .is_some_and(|start| text.ends_with(start))
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::StopWatch;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut watch = StopWatch::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut out: String = pieces.iter().map(|piece| watch.push(piece)).collect();
        out.push_str(&watch.finish());
        (out, watch.stopped())
    }

    #[test]
    fn a_stop_across_pieces_is_cut_with_everything_behind_it() {
        assert_eq!(
            run(&["END"], &["one E", "N", "D two"]),
            ("one ".into(), true)
        );
        assert_eq!(run(&["b", "ab"], &["xa", "b"]), ("x".into(), true));
    }

    #[test]
    fn text_that_only_begins_like_a_stop_is_kept() {
        assert_eq!(
            run(&["END"], &["one E", "N", "d"]),
            ("one ENd".into(), false)
        );
        assert_eq!(run(&["éé"], &["é", "x"]), ("éx".into(), false));
        assert_eq!(run(&[], &["all"]), ("all".into(), false));
    }

    #[test]
    fn nothing_of_a_possible_stop_is_shown_early() {
        let mut watch = StopWatch::new(vec!["\n\nUser:".into()]);
        assert_eq!(watch.push("answer\n\nUs"), "answer");
        assert_eq!(watch.push("ers"), "\n\nUsers");
    }
}
