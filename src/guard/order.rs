//! Hashes in ascending order, in half the time of a sort by comparisons: they are spread evenly, so that each is put near its place
//! by its first bits, and what is left is exchanged with its neighbours. Nobody who has no key can choose hashes that are near to
//! each other, and a prompt has a few hundred at most.

const BUCKETS_MAX: usize = 1024;

/// The same hashes in ascending order.
pub(super) fn ascending(hashes: &[u64]) -> Vec<u64> {
    let mut ends = [0_usize; BUCKETS_MAX];
    let buckets = hashes.len().next_power_of_two().saturating_mul(2);
    let buckets = buckets.min(BUCKETS_MAX);
    let ends = ends.get_mut(..buckets).unwrap_or_default();
    let shift = u64::BITS - buckets.ilog2();
    let bucket = |hash: u64| usize::try_from(hash >> shift).unwrap_or(0);
    for hash in hashes {
        if let Some(many) = ends.get_mut(bucket(*hash)) {
            *many += 1;
        }
    }
    let mut before = 0;
    for end in ends.iter_mut() {
        before += *end;
        *end = before;
    }
    let mut near = vec![0; hashes.len()];
    for hash in hashes {
        if let Some(end) = ends.get_mut(bucket(*hash)) {
            *end = end.saturating_sub(1);
            if let Some(place) = near.get_mut(*end) {
                *place = *hash;
            }
        }
    }
    for at in 1..near.len() {
        settle(&mut near, at);
    }
    near
}

/// Puts the hash at a place among those before it, which are in order.
fn settle(hashes: &mut [u64], mut at: usize) {
    while let Some([before, after]) = at.checked_sub(1).and_then(|from| hashes.get_mut(from..=at))
        && *before > *after
    {
        std::mem::swap(before, after);
        at -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::GuardKey;

    #[test]
    fn the_order_is_that_of_a_sort() {
        let key = GuardKey::new([6; 16]);
        for many in 0..700 {
            let hashes: Vec<u64> = (0..many).map(|n| key.hash_words(&[n / 2, many])).collect();
            let mut sorted = hashes.clone();
            sorted.sort_unstable();
            assert_eq!(ascending(&hashes), sorted);
        }
        let uneven = [7, u64::MAX, 0, 7, 3, 1 << 63, 2, u64::MAX];
        let sorted = [0, 2, 3, 7, 7, 1 << 63, u64::MAX, u64::MAX];
        assert_eq!(ascending(&uneven), sorted);
    }
}
