//! How rows of unequal sequences become few tensors of few shapes. Plain numbers: what a step sends to the device, and
//! which part of it means what.
//!
//! Sequences with few rows are computed together, as if all had as many rows and as long a past as the largest of them;
//! what is not there is looked at in an empty page and is masked. Sizes are rounded up, so that the same shapes come again
//! and candle's kernels need not be told new ones.

use std::ops::Range;

use crate::engine::PAGE;

/// Sequences with at most so many rows share a group.
const ROWS_SHARED_MAX: usize = 8;

/// The row that there is not, and the slot.
const NO_ROW: u32 = u32::MAX;
const NO_SLOT: u32 = u32::MAX;
/// candle multiplies blocks by so many rows and more on matrix units: 8 rows take a third longer than 9 (measured on an
/// H200, 8192 × 2048, Q4_K: 27 and 20 µs), 4 rows less than either.
const PADDED: usize = 9;

/// Rows of one sequence.
#[derive(Clone)]
pub(super) struct Part<'a> {
    /// The sequence's pages, with room for these rows.
    pub(super) pages: &'a [u32],
    /// Its tokens before these rows.
    pub(super) before: usize,
    /// How many rows.
    pub(super) rows: usize,
    /// After how many of the last rows logits are wanted.
    pub(super) logits: usize,
}

/// What does not change from step to step.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// Heads of queries for each head of keys.
    pub(super) share: usize,
    /// How many tokens layers see, each kind once.
    pub(super) sights: Vec<usize>,
    /// The page that is looked at where there is nothing.
    pub(super) empty_page: u32,
    /// Whether products of [`PADDED`] rows are faster than those of somewhat fewer, and a row too many harms nothing.
    pub(super) pads: bool,
}

impl Shape {
    /// Rows that are computed beside those of `parts` because more rows are faster: nobody sees them.
    pub(super) fn padding(&self, parts: &[Part<'_>]) -> usize {
        let few = parts.iter().all(|part| part.rows <= ROWS_SHARED_MAX);
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        match self.pads && few {
            true => padding(rows),
            false => 0,
        }
    }

    /// The same where each of so many sequences has one row.
    pub(super) fn padding_of_one_each(&self, sequences: usize) -> usize {
        usize::from(self.pads) * padding(sequences)
    }
}

/// Up to how many rows more than there are a product is faster.
fn padding(rows: usize) -> usize {
    match rows {
        6..PADDED => PADDED - rows,
        _ => 0,
    }
}

/// Numbers that are sent to the device together.
#[derive(Default)]
pub(super) struct Numbers(pub(super) Vec<u32>);

impl Numbers {
    /// Appends some; answers where they stand.
    pub(super) fn put(&mut self, numbers: impl IntoIterator<Item = u32>) -> Range<usize> {
        let start = self.0.len();
        self.0.extend(numbers);
        start..self.0.len()
    }
}

/// A pass through the model, by where its numbers stand.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Pass {
    pub(super) rows: usize,
    /// Each row's place in its sequence.
    pub(super) positions: Range<usize>,
    /// The slot of each row's keys and values.
    pub(super) slots: Range<usize>,
    pub(super) groups: Vec<Group>,
    /// Where the groups' results, one after another, hold what belongs to each query of each row.
    pub(super) order: Range<usize>,
    /// Rows whose logits are wanted.
    pub(super) wanted: Range<usize>,
}

/// Sequences that attend together.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) sequences: usize,
    /// Of each sequence.
    pub(super) rows: usize,
    /// Sequence by sequence, row by row: which row of all; [`NO_ROW`] where a sequence has fewer.
    pub(super) rows_of: Range<usize>,
    /// Sequence by sequence, head by head, row by row: which query of all that share a head of keys.
    pub(super) queries: Range<usize>,
    /// What is seen, one for each of [`Shape::sights`].
    pub(super) views: Vec<View>,
}

/// Part of the sequences' past.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct View {
    /// Pages, the same number for each sequence.
    pub(super) pages: Range<usize>,
    /// Slots of each sequence.
    pub(super) columns: usize,
    /// For each query how many slots lie between the view's first and its own.
    pub(super) lags: Range<usize>,
    /// Tokens that are seen, the own one included.
    pub(super) sight: usize,
}

impl Pass {
    /// Plans a pass of `parts`.
    pub(super) fn new(parts: &[Part<'_>], shape: &Shape, numbers: &mut Numbers) -> Self {
        let padding_rows = shape.padding(parts);
        let rows = parts.iter().map(|part| part.rows).sum::<usize>() + padding_rows;
        let places = parts
            .iter()
            .flat_map(|part| (part.before..part.before + part.rows).map(move |at| (part, at)));
        let nowhere = |number| std::iter::repeat_n(number, padding_rows);
        let positions = places.clone().map(|(_, at)| at as u32);
        let positions = numbers.put(positions.chain(nowhere(0)));
        let slots = places.map(|(part, at)| part.slot(at));
        let slots = numbers.put(slots.chain(nowhere(NO_SLOT)));
        let mut ends = 0;
        let firsts = parts.iter().map(|part| {
            ends += part.rows;
            (part, ends - part.rows)
        });
        let (shared, single): (Vec<_>, Vec<_>) =
            firsts.partition(|(part, _)| part.rows <= ROWS_SHARED_MAX);
        let mut members: Vec<Vec<(&Part<'_>, usize)>> =
            single.into_iter().map(|one| vec![one]).collect();
        members.extend((!shared.is_empty()).then_some(shared));
        let mut order = vec![0; shape.share * rows];
        let mut base = 0;
        let groups = members.iter().map(|members| {
            let group = Group::new(members, rows, shape, numbers);
            group.note_order(members, rows, shape.share, base, &mut order);
            base += group.sequences * shape.share * group.rows;
            group
        });
        let groups = groups.collect();
        let mut end = 0;
        let wanted = parts.iter().flat_map(|part| {
            end += part.rows;
            end - part.logits.min(part.rows)..end
        });
        let mut wanted: Vec<u32> = wanted.map(|row| row as u32).collect();
        if padding_rows > 0 {
            wanted.resize(wanted.len() + padding(wanted.len()), 0);
        }
        Self {
            rows,
            positions,
            slots,
            groups,
            order: numbers.put(order),
            wanted: numbers.put(wanted),
        }
    }

    /// The group of all its rows, where every sequence has few.
    pub(super) fn shared(&self) -> Option<&Group> {
        match self.groups.as_slice() {
            [group] if group.rows <= ROWS_SHARED_MAX => Some(group),
            _ => None,
        }
    }
}

impl Part<'_> {
    fn slot(&self, place: usize) -> u32 {
        let page = self.pages.get(place / PAGE).copied().unwrap_or_default();
        page * PAGE as u32 + (place % PAGE) as u32
    }
}

impl Group {
    fn new(
        members: &[(&Part<'_>, usize)],
        all_rows: usize,
        shape: &Shape,
        numbers: &mut Numbers,
    ) -> Self {
        let most = members.iter().map(|(part, _)| part.rows).max();
        let (sequences, rows) = (rounded(members.len()), rounded(most.unwrap_or(1)));
        let row_of = |sequence: usize, row: usize| {
            let member = members.get(sequence);
            let own = member.filter(|(part, _)| row < part.rows);
            own.map(|(_, first)| first + row)
        };
        let rows_of = cells(sequences, 1, rows).map(|(sequence, _, row)| row_of(sequence, row));
        let rows_of = numbers.put(rows_of.map(|row| row.map_or(NO_ROW, |row| row as u32)));
        let query = |sequence: usize, head: usize, row: usize| {
            (head * all_rows + row_of(sequence, row).unwrap_or(0)) as u32
        };
        let queries =
            numbers.put(cells(sequences, shape.share, rows).map(|(s, h, r)| query(s, h, r)));
        let views = shape
            .sights
            .iter()
            .map(|sight| View::new(members, (sequences, rows), *sight, shape, numbers));
        Self {
            sequences,
            rows,
            rows_of,
            queries,
            views: views.collect(),
        }
    }

    /// Notes where this group's results stand if `base` others come before them.
    fn note_order(
        &self,
        members: &[(&Part<'_>, usize)],
        all_rows: usize,
        share: usize,
        base: usize,
        order: &mut [u32],
    ) {
        for (sequence, (part, first)) in members.iter().enumerate() {
            for (head, row) in
                (0..share).flat_map(|head| (0..part.rows).map(move |row| (head, row)))
            {
                let found = base + (sequence * share + head) * self.rows + row;
                if let Some(place) = order.get_mut(head * all_rows + first + row) {
                    *place = found as u32;
                }
            }
        }
    }
}

impl View {
    fn new(
        members: &[(&Part<'_>, usize)],
        (sequences, rows): (usize, usize),
        sight: usize,
        shape: &Shape,
        numbers: &mut Numbers,
    ) -> Self {
        // The page of the first token that a sequence's first row sees.
        let first = |part: &Part<'_>| (part.before + 1).saturating_sub(sight) / PAGE;
        let pages = members
            .iter()
            .map(|(part, _)| (part.before + part.rows).div_ceil(PAGE) - first(part));
        let pages = pages_rounded(pages.max().unwrap_or(1));
        let page = |sequence: usize, at: usize| {
            let (part, _) = members.get(sequence)?;
            let used = (part.before + part.rows).div_ceil(PAGE);
            let page = part.pages.get(..used)?.get(first(part) + at);
            page.copied()
        };
        let tables = cells(sequences, 1, pages);
        let tables = tables.map(|(sequence, _, at)| page(sequence, at).unwrap_or(shape.empty_page));
        let lag = |sequence: usize, row: usize| {
            let (part, _) = members.get(sequence)?;
            (row < part.rows).then(|| part.before + row - first(part) * PAGE)
        };
        let lags = cells(sequences, shape.share, rows);
        // Rows that are not there see the view's first slot and nothing else.
        let lags = lags.map(|(sequence, _, row)| lag(sequence, row).unwrap_or(0) as u32);
        Self {
            pages: numbers.put(tables),
            columns: pages * PAGE,
            lags: numbers.put(lags),
            sight,
        }
    }
}

/// All triples below three bounds, the last number changing fastest.
fn cells(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |at| (at / (b * c), at / c % b, at % c))
}

/// A size that comes again: at most a quarter more.
pub(super) fn rounded(size: usize) -> usize {
    match size {
        0..=8 => size.next_power_of_two(),
        _ => size.next_multiple_of(size.next_power_of_two() / 8),
    }
}

/// As many pages of each sequence as are looked at: few sizes, so that steps that generate can be recorded and come again.
pub(super) fn pages_rounded(pages: usize) -> usize {
    const LEAST: usize = 8;
    let above = pages.max(LEAST).next_power_of_two();
    match pages <= above / 4 * 3 && above > LEAST {
        true => above / 4 * 3,
        false => above,
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use super::*;

    const SHAPE: (usize, usize) = (3, 40);

    /// Parts of unequal sequences: each has pages of its own, numbered by sequence and place.
    fn parts(pages: &[Vec<u32>]) -> Vec<Part<'_>> {
        let each = [(70, 1, 1), (0, 5, 1), (33, 20, 0), (31, 2, 2), (5, 9, 1)];
        let part = |((before, rows, logits), pages)| Part {
            pages,
            before,
            rows,
            logits,
        };
        let pages = pages.iter().map(Vec::as_slice);
        each.into_iter().zip(pages).map(part).collect()
    }

    fn plan(run: impl FnOnce(&[Part<'_>], &Pass, &[u32])) {
        let pages: Vec<Vec<u32>> = (0..5)
            .map(|sequence| (0..3).map(|page| sequence * 10 + page).collect())
            .collect();
        let parts = parts(&pages);
        let shape = Shape {
            share: SHAPE.0,
            sights: vec![SHAPE.1, usize::MAX],
            empty_page: 99,
            pads: false,
        };
        let mut numbers = Numbers::default();
        let pass = Pass::new(&parts, &shape, &mut numbers);
        run(&parts, &pass, &numbers.0);
    }

    #[test]
    fn every_query_is_asked_once_and_its_result_found_again() {
        plan(|_, pass, numbers| {
            let asked: Vec<u32> = pass
                .groups
                .iter()
                .flat_map(|group| numbers[group.queries.clone()].to_vec())
                .collect();
            let found = numbers[pass.order.clone()]
                .iter()
                .map(|place| asked[*place as usize]);
            let all = (0..(SHAPE.0 * pass.rows) as u32).collect::<Vec<_>>();
            assert_eq!(found.collect::<Vec<_>>(), all);
        });
    }

    #[test]
    fn every_row_sees_its_own_past_and_nothing_else() {
        plan(|parts, pass, numbers| {
            let page = PAGE as u32;
            let mut checked = 0;
            for group in &pass.groups {
                for view in &group.views {
                    let pages = &numbers[view.pages.clone()];
                    let lags = &numbers[view.lags.clone()];
                    let each = view.columns / PAGE;
                    let queries = numbers[group.queries.clone()].iter().zip(lags);
                    for (at, (query, lag)) in queries.enumerate() {
                        // What is looked at, as slots of the sequence that the row belongs to.
                        let sequence = at / (SHAPE.0 * group.rows);
                        let first = (*lag + 1).saturating_sub(view.sight as u32);
                        let slots = (first..=*lag).map(|slot| {
                            let page_of = pages[sequence * each + (slot / page) as usize];
                            page_of * page + slot % page
                        });
                        let slots: Vec<u32> = slots.collect();
                        if slots[0] / page == 99 {
                            continue;
                        }
                        let row = *query as usize % pass.rows;
                        let (part, own) = owner(parts, row);
                        let place = part.before + own;
                        if *lag == 0 && place > 0 {
                            continue;
                        }
                        let seen = (place + 1).saturating_sub(view.sight)..place + 1;
                        let expected: Vec<u32> = seen.map(|at| part.slot(at)).collect();
                        assert_eq!(slots, expected, "row {row}");
                        checked += 1;
                    }
                }
            }
            assert!(checked >= 2 * SHAPE.0 * (pass.rows - 2), "{checked}");
        });
    }

    fn owner<'a, 'b>(parts: &'a [Part<'b>], row: usize) -> (&'a Part<'b>, usize) {
        let mut left = row;
        for part in parts {
            if left < part.rows {
                return (part, left);
            }
            left -= part.rows;
        }
        unreachable!("a row belongs to a part");
    }

    #[test]
    fn rows_are_stored_and_wanted_where_they_belong() {
        plan(|parts, pass, numbers| {
            let positions = &numbers[pass.positions.clone()];
            let slots = &numbers[pass.slots.clone()];
            for row in 0..pass.rows {
                let (part, own) = owner(parts, row);
                assert_eq!(positions[row] as usize, part.before + own);
                assert_eq!(slots[row], part.slot(part.before + own));
            }
            assert_eq!(numbers[pass.wanted.clone()], [0, 5, 26, 27, 36]);
            let cells = pass.groups.iter();
            let mut rows: Vec<u32> = cells
                .flat_map(|group| numbers[group.rows_of.clone()].to_vec())
                .filter(|row| *row != NO_ROW)
                .collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..pass.rows as u32).collect::<Vec<_>>());
            assert!(pass.shared().is_none(), "some sequences have many rows");
        });
    }

    #[test]
    fn rows_that_nobody_sees_make_nine_of_somewhat_fewer() {
        let pages: Vec<u32> = (0..3).collect();
        let shape = Shape {
            share: SHAPE.0,
            sights: vec![usize::MAX],
            empty_page: 99,
            pads: true,
        };
        for (sequences, rows) in [
            (1, 1),
            (4, 4),
            (5, 5),
            (6, 9),
            (7, 9),
            (8, 9),
            (9, 9),
            (12, 12),
        ] {
            let part = Part {
                pages: &pages,
                before: 40,
                rows: 1,
                logits: 1,
            };
            let parts = vec![part; sequences];
            let mut numbers = Numbers::default();
            let pass = Pass::new(&parts, &shape, &mut numbers);
            assert_eq!(pass.rows, rows);
            let Numbers(numbers) = numbers;
            assert_eq!(pass.positions.len(), rows);
            assert!(
                numbers[pass.slots.clone()][sequences..]
                    .iter()
                    .all(|slot| *slot == NO_SLOT)
            );
            assert_eq!(pass.wanted.len(), rows);
            let own: Vec<u32> = (0..sequences as u32).collect();
            assert_eq!(numbers[pass.wanted.clone()][..sequences], own);
            let group = pass.shared().unwrap();
            let mut seen = numbers[group.rows_of.clone()].to_vec();
            seen.retain(|row| *row != NO_ROW);
            assert_eq!(seen, own);
        }
        let long = Part {
            pages: &pages,
            before: 0,
            rows: 20,
            logits: 1,
        };
        assert_eq!(shape.padding(&[long]), 0);
    }

    #[test]
    fn sizes_come_again_and_grow_by_a_quarter_at_most() {
        for size in 1..5_000_usize {
            let found = rounded(size);
            let most = if size <= 8 { 2 * size } else { size * 5 / 4 };
            assert!((size..=most).contains(&found), "{size}");
        }
        let kinds: std::collections::HashSet<usize> = (1..=4096).map(rounded).collect();
        assert!(kinds.len() <= 40, "{}", kinds.len());
        for pages in 1..5_000_usize {
            let found = pages_rounded(pages);
            assert!(
                (pages..=(pages * 3 / 2 + 1).max(8)).contains(&found),
                "{pages}"
            );
        }
        let kinds: std::collections::HashSet<usize> = (1..=4096).map(pages_rounded).collect();
        assert!(kinds.len() <= 20, "{}", kinds.len());
    }
}
