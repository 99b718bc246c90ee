//! Packs what is to be sent into cells of one size. Whatever a reader is to ignore fills them: comments between the events of
//! a stream, white space behind a document.

/// Bytes of a cell.
pub const CELL_BYTES: usize = 512;

/// The shortest comment with the blank line behind it, which readers that split at blank lines want.
const COMMENT_BYTES_MIN: usize = 3;

/// What fills a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filler {
    /// Comment lines of server-sent events.
    Comments,
    /// White space of JSON.
    Spaces,
}

/// What is to be sent and was not yet. What is pushed ends where filler may stand: behind a whole event, or behind a document.
#[derive(Debug)]
pub struct Cells {
    filler: Filler,
    waiting: Vec<u8>,
    sent: u32,
}

impl Cells {
    /// Nothing yet.
    #[must_use]
    pub const fn new(filler: Filler) -> Self {
        Self {
            filler,
            waiting: Vec::new(),
            sent: 0,
        }
    }

    /// Adds an event or a document.
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next cell: [`CELL_BYTES`] of what waits, filled up.
    pub fn take(&mut self) -> Vec<u8> {
        let gap = CELL_BYTES.saturating_sub(self.waiting.len());
        if gap > 0 {
            self.fill(gap);
        }
        let rest = self.waiting.split_off(CELL_BYTES.min(self.waiting.len()));
        self.sent = self.sent.saturating_add(1);
        std::mem::replace(&mut self.waiting, rest)
    }

    /// At least `gap` bytes. A comment that is too short goes on in the next cell, as an event may.
    fn fill(&mut self, gap: usize) {
        match self.filler {
            Filler::Spaces => self
                .waiting
                .resize(self.waiting.len().saturating_add(gap), b' '),
            Filler::Comments => {
                let spaces = gap.max(COMMENT_BYTES_MIN).saturating_sub(COMMENT_BYTES_MIN);
                self.waiting.push(b':');
                self.waiting
                    .resize(self.waiting.len().saturating_add(spaces), b' ');
                self.waiting.extend_from_slice(b"\n\n");
            }
        }
    }

    /// Cells that were taken.
    #[must_use]
    pub const fn sent(&self) -> u32 {
        self.sent
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Cells that what waits and `more` bytes need.
    #[must_use]
    pub fn needed(&self, more: usize) -> u32 {
        let bytes = self.waiting.len().saturating_add(more);
        let gap = bytes
            .div_ceil(CELL_BYTES)
            .saturating_mul(CELL_BYTES)
            .saturating_sub(bytes);
        // A comment that is too short for the last gap goes on in another cell.
        let spills = self.filler == Filler::Comments && (1..COMMENT_BYTES_MIN).contains(&gap);
        let cells = bytes
            .div_ceil(CELL_BYTES)
            .saturating_add(usize::from(spills));
        u32::try_from(cells).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(length: usize) -> Vec<u8> {
        let text = "x".repeat(length.checked_sub("data: \n\n".len()).unwrap());
        format!("data: {text}\n\n").into_bytes()
    }

    /// What a reader of events makes of it, by the lines: data, and how many events there were.
    fn read(stream: &[u8]) -> (String, usize) {
        let text = std::str::from_utf8(stream).unwrap();
        assert!(text.ends_with("\n\n"));
        let (mut data, mut events, mut open) = (String::new(), 0, false);
        for line in text.lines() {
            match line.strip_prefix("data: ") {
                Some(line) => {
                    data.push_str(line);
                    open = true;
                }
                None if line.is_empty() => events += usize::from(std::mem::take(&mut open)),
                None => assert!(line.starts_with(':'), "{line:?}"),
            }
        }
        (data, events)
    }

    #[test]
    fn every_cell_has_one_size_whatever_waits_and_no_event_is_lost_or_broken() {
        for first in [
            8, 9, 500, 508, 509, 510, 511, 512, 513, 1022, 1023, 1024, 5000,
        ] {
            for second in [8, 300, 512, 700] {
                let mut cells = Cells::new(Filler::Comments);
                let mut stream = Vec::new();
                let mut take = |cells: &mut Cells| {
                    let cell = cells.take();
                    assert_eq!(cell.len(), CELL_BYTES);
                    stream.extend(cell);
                };
                take(&mut cells);
                cells.push(&event(first));
                take(&mut cells);
                cells.push(&event(second));
                let needed = cells.needed(0);
                let before = cells.sent();
                while cells.waiting() > 0 {
                    take(&mut cells);
                }
                let sent = cells.sent() - before;
                assert_eq!(sent, needed, "{first} {second}");
                let (data, events) = read(&stream);
                assert_eq!(events, 2, "{first} {second}");
                assert_eq!(data.len(), first + second - 2 * "data: \n\n".len());
            }
        }
    }

    #[test]
    fn a_document_ends_in_white_space() {
        for length in [1, 511, 512, 513, 1500] {
            let mut cells = Cells::new(Filler::Spaces);
            let document = format!("\"{}\"", "y".repeat(length));
            cells.push(document.as_bytes());
            let needed = cells.needed(0);
            let mut all = Vec::new();
            for _ in 0..needed + 1 {
                all.extend(cells.take());
            }
            assert_eq!(all.len(), CELL_BYTES * (needed as usize + 1));
            let read: String = serde_json::from_slice(&all).unwrap();
            assert_eq!(read.len(), length);
        }
    }
}
