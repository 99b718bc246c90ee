//! Stop strings across token boundaries: text that may be the beginning of one is held back until it is decided.

/// Bounds of a request's stop strings (OpenAI accepts four).
pub const STOPS_MAX: usize = 8;
/// Bytes of one stop string.
pub const STOP_LEN_MAX: usize = 256;

/// Text on its way out.
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What may go out now.
#[derive(Debug, PartialEq, Eq)]
pub struct Released {
    /// Text that is decided.
    pub text: String,
    /// Whether a stop string was reached: nothing follows.
    pub stopped: bool,
}

impl StopFilter {
    /// A filter for `stops`; empty ones never match.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Adds text; answers what is decided by it.
    pub fn push(&mut self, text: &str) -> Released {
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        let (end, stopped) = match first {
            Some(at) => (at, true),
            None => (self.decided(), false),
        };
        let rest = self.held.split_off(end);
        let text = std::mem::replace(&mut self.held, if stopped { String::new() } else { rest });
        Released { text, stopped }
    }

    /// The end: what was held is no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes from the start that cannot be part of a stop string any more.
    fn decided(&self) -> usize {
        let may_begin = |at: usize| {
            let tail = self.held.get(at..).unwrap_or_default();
            self.stops.iter().any(|stop| stop.starts_with(tail))
        };
        let mut places = self.held.char_indices().map(|(at, _)| at);
        places.find(|at| may_begin(*at)).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut filter = StopFilter::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            let released = filter.push(piece);
            out.push_str(&released.text);
            if released.stopped {
                return (out, true);
            }
        }
        out.push_str(&filter.finish());
        (out, false)
    }

    #[test]
    fn stops_are_found_across_pieces_and_the_first_one_counts() {
        assert_eq!(run(&["END"], &["a E", "N", "D b"]), ("a ".into(), true));
        assert_eq!(
            run(&["END"], &["a E", "N", "d b"]),
            ("a ENd b".into(), false)
        );
        assert_eq!(run(&["bc", "b"], &["ab", "c"]), ("a".into(), true));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(run(&["é!"], &["é", "?é", "!"]), ("é?".into(), true));
        assert_eq!(
            run(&["", "\n\n"], &["x\n", "y\n"]),
            ("x\ny\n".into(), false)
        );
        assert_eq!(run(&[], &["x"]), ("x".into(), false));
    }

    #[test]
    fn only_text_that_may_begin_a_stop_is_held() {
        let mut filter = StopFilter::new(vec!["###".into()]);
        assert_eq!(
            filter.push("ab#"),
            Released {
                text: "ab".into(),
                stopped: false
            }
        );
        assert_eq!(
            filter.push("c"),
            Released {
                text: "#c".into(),
                stopped: false
            }
        );
    }

    proptest::proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(text in "[ab]{0,20}", stop in "[ab]{1,4}", cut in 1_usize..4) {
            let bytes: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = bytes.chunks(cut).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let expected = text.split_once(&stop).map_or((text.clone(), false), |(before, _)| (before.to_owned(), true));
            assert_eq!(run(&[&stop], &pieces), expected);
        }
    }
}
