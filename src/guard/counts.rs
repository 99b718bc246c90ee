//! In how many prompts of a day each shingle was, for a whole organisation in 4 MiB: a count-min sketch with conservative update
//! (Estan and Varghese, 2003), all cells of a shingle in one line of the processor's cache, as blocked Bloom filters have it
//! (Putze, Sanders and Singler, 2007). A count is never too small while it is below 255, and rarely too large.

const LINES: usize = 1 << 16;
const ROWS: usize = 4;
const COLUMNS: usize = 16;

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([[u8; COLUMNS]; ROWS]);

/// All counts.
#[derive(Debug)]
pub(super) struct Counts(Vec<Line>);

impl Counts {
    pub(super) fn new() -> Self {
        Self(vec![Line([[0; COLUMNS]; ROWS]); LINES])
    }

    pub(super) const fn bytes() -> usize {
        LINES * size_of::<Line>()
    }

    /// Counts a prompt with these shingles. Each with how many prompts there were with it.
    pub(super) fn add(&mut self, shingles: &[u64]) -> Vec<(u64, u8)> {
        // First all are looked up, so that one look at memory does not wait for another.
        let counted = shingles.iter();
        let counted = counted.map(|one| (*one, self.of(*one).saturating_add(1)));
        let counted: Vec<(u64, u8)> = counted.collect();
        for (shingle, now) in &counted {
            self.raise(*shingle, *now);
        }
        counted
    }

    fn of(&self, shingle: u64) -> u8 {
        let (line, columns) = place(shingle);
        let Some(Line(rows)) = self.0.get(line) else {
            return 0;
        };
        let mut least = u8::MAX;
        for (row, column) in rows.iter().zip(columns) {
            least = least.min(row.get(column).copied().unwrap_or(0));
        }
        least
    }

    fn raise(&mut self, shingle: u64, now: u8) {
        let (line, columns) = place(shingle);
        let Some(Line(rows)) = self.0.get_mut(line) else {
            return;
        };
        for (row, column) in rows.iter_mut().zip(columns) {
            if let Some(cell) = row.get_mut(column) {
                *cell = now.max(*cell);
            }
        }
    }

    /// Halves all counts so many times.
    pub(super) fn halve(&mut self, times: u32) {
        for cell in self
            .0
            .iter_mut()
            .flat_map(|Line(rows)| rows.iter_mut().flatten())
        {
            *cell = cell.checked_shr(times).unwrap_or(0);
        }
    }
}

/// The line of a shingle and its cell in each row. The line is of the high bits: shingles of a prompt come in ascending order, and
/// so walk through memory in one direction.
fn place(shingle: u64) -> (usize, [usize; ROWS]) {
    let of =
        |shift: u32, many: usize| usize::try_from((shingle >> shift) % many as u64).unwrap_or(0);
    (of(48, LINES), [0, 4, 8, 12].map(|shift| of(shift, COLUMNS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::GuardKey;

    fn add(counts: &mut Counts, shingle: u64) -> u8 {
        counts.add(&[shingle])[0].1
    }

    #[test]
    fn a_day_of_an_organisation_is_counted_nearly_exactly() {
        let key = GuardKey::new([4; 16]);
        let mut counts = Counts::new();
        // A million shingles of which each prompt is the first, and a hundred that come every ten thousand.
        let rare = |n: u64| key.hash_words(&[n]);
        let common = |n: u64| key.hash_words(&[n, n]);
        let mut mistaken = [0; 2];
        for n in 0..1_000_000 {
            let count = add(&mut counts, rare(n));
            mistaken[0] += u32::from(count >= 4);
            mistaken[1] += u32::from(count >= 20);
            if n % 100 == 0 {
                let times = n / 10_000 + 1;
                let count = u64::from(add(&mut counts, common(n / 100 % 100)));
                assert!(count >= times && count <= times + 3, "{count} of {times}");
            }
        }
        assert!(mistaken[0] < 10_000 && mistaken[1] == 0, "{mistaken:?}");
    }

    #[test]
    fn counts_end_at_their_largest_and_are_halved() {
        let mut counts = Counts::new();
        let last = (0..300).map(|_| add(&mut counts, 7)).last();
        assert_eq!(last, Some(u8::MAX));
        counts.halve(2);
        assert_eq!(add(&mut counts, 7), 64);
        counts.halve(9);
        assert_eq!(add(&mut counts, 7), 1);
    }
}
