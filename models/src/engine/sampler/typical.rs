//! Locally typical sampling (Meister et al. 2022, arXiv 2202.00666): keeps tokens whose surprise is closest to the one that is
//! expected, until they have a given probability together.

/// Tokens looked at first: nearly always enough, and cheap to put in order.
const FIRST_LOOK: usize = 64;

/// What all tokens are together, of which some are looked at: the sum of `e^d`, and the mean of `d` by their probabilities, where
/// `d` is by how much a logit is above the largest.
#[derive(Clone, Copy)]
pub(super) struct Whole {
    pub(super) sum: f64,
    pub(super) mean: f64,
}

impl Whole {
    fn of(far: impl Iterator<Item = f64> + Clone) -> Self {
        let sum: f64 = far.clone().map(f64::exp).sum();
        let first: f64 = far.map(|d| d.exp() * d).sum();
        let mean = first / sum;
        Self { sum, mean }
    }
}

/// Keeps the smallest set of most typical tokens that has probability `typical_p`, at least one. `tokens` are ids and
/// logits, the likeliest among them; their order changes. `whole` says what all are together, where these are not all.
pub(super) fn keep_typical(tokens: &mut Vec<(u32, f64)>, typical_p: f64, whole: Option<Whole>) {
    let logits = tokens.iter().map(|(_, logit)| *logit);
    let best = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    let far = logits.map(|logit| logit - best);
    // What can't be told from nothing says nothing of the mean.
    let counts = far.clone().filter(|d| d.exp() > 0.0);
    let whole = whole.unwrap_or_else(|| Whole::of(counts));
    // (distance from the expected surprise, probability, place)
    let mut typical: Vec<(f64, f64, usize)> = far
        .enumerate()
        .map(|(at, d)| ((d - whole.mean).abs(), d.exp() / whole.sum, at))
        .collect();
    let id = |at: usize| tokens.get(at).map(|(id, _)| *id);
    let order = |a: &(f64, f64, usize), b: &(f64, f64, usize)| {
        let likelier = b.1.total_cmp(&a.1);
        a.0.total_cmp(&b.0)
            .then(likelier)
            .then_with(|| id(a.2).cmp(&id(b.2)))
    };
    let mut look = FIRST_LOOK;
    let kept = loop {
        if look < typical.len() {
            typical.select_nth_unstable_by(look, order);
        }
        look = look.min(typical.len());
        let (near, _) = typical.split_at_mut(look);
        near.sort_unstable_by(order);
        let mut left = typical_p;
        let reached = near.iter().position(|(_, probability, _)| {
            left -= probability;
            left <= 0.0
        });
        match reached {
            Some(last) => break last + 1,
            None if look == typical.len() => break look,
            None => look *= 8,
        }
    };
    let kept = typical.iter().take(kept);
    *tokens = kept
        .filter_map(|(_, _, at)| tokens.get(*at).copied())
        .collect();
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use super::*;

    /// The definition, with a sort of all.
    fn naive(tokens: &[(u32, f64)], typical_p: f64) -> Vec<u32> {
        let sum: f64 = tokens.iter().map(|token| token.1.exp()).sum();
        let p: Vec<f64> = tokens.iter().map(|token| token.1.exp() / sum).collect();
        let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by(|a, b| {
            let distance = |at: usize| (-p[at].ln() - entropy).abs();
            distance(*a)
                .total_cmp(&distance(*b))
                .then(p[*b].total_cmp(&p[*a]))
                .then(a.cmp(b))
        });
        let mut mass = 0.0;
        let reached = order.iter().position(|at| {
            mass += p[*at];
            mass >= typical_p
        });
        let kept = reached.map_or(order.len(), |last| last + 1);
        let mut ids: Vec<u32> = order[..kept].iter().map(|at| tokens[*at].0).collect();
        ids.sort_unstable();
        ids
    }

    proptest::proptest! {
        #[test]
        fn the_kept_ones_are_those_of_the_definition(
            logits in proptest::collection::vec(-12.0_f64..12.0, 1..700), typical_p in 0.01_f64..1.0
        ) {
            let tokens: Vec<(u32, f64)> = (0..).zip(logits).collect();
            let mut kept = tokens.clone();
            keep_typical(&mut kept, typical_p, None);
            let mut ids: Vec<u32> = kept.iter().map(|token| token.0).collect();
            ids.sort_unstable();
            assert_eq!(ids, naive(&tokens, typical_p));
            assert!(kept.iter().all(|kept| tokens[kept.0 as usize] == *kept), "logits stay");
        }
    }

    #[test]
    fn a_token_that_says_too_little_is_left_out() {
        // One token is likely and says almost nothing beside a long tail.
        let mut tokens: Vec<(u32, f64)> = (1..=1000).map(|id| (id, 0.0009_f64.ln())).collect();
        tokens.push((0, 0.1_f64.ln()));
        keep_typical(&mut tokens, 0.5, None);
        assert!(
            tokens.iter().all(|token| token.0 != 0) && tokens.len() == 556,
            "{}",
            tokens.len()
        );
    }
}
