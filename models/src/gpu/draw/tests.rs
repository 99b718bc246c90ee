//! What is drawn here is what the host draws.

use candle_core::Device;

use super::*;
use crate::engine::{Learnt, learnt, sampler};

/// Logits of a vocabulary, in rows that differ.
fn logits(rows: usize, vocabulary: usize) -> Vec<f32> {
    let logit = |at: usize| {
        let mixed = (at as u32)
            .wrapping_mul(2_654_435_761)
            .rotate_left(at as u32 % 13);
        (mixed >> 8) as f32 / 1_500_000.0
    };
    (0..rows * vocabulary).map(logit).collect()
}

fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams::default();
    change(&mut params);
    params
}

/// Rules of every kind.
fn rules() -> Vec<SamplingParams> {
    vec![
        params(|params| params.temperature = 0.0),
        params(|_| ()),
        params(|params| params.temperature = 0.7),
        params(|params| params.top_k = 40),
        params(|params| params.top_p = 0.9),
        params(|params| {
            params.temperature = 0.8;
            params.top_k = 100;
            params.top_p = 0.95;
            params.min_p = 0.02;
        }),
        params(|params| {
            params.temperature = 0.4;
            params.temperature_order = TemperatureOrder::Last;
            params.top_p = 0.5;
        }),
        params(|params| params.min_p = 0.1),
        params(|params| params.top_k = 1),
    ]
}

/// What is drawn for `asked` from rows of logits, and what the model is fed with. What a token tells is compared with the host's
/// word here, for all of them.
fn drawn(logits: &[f32], vocabulary: usize, asked: &[Asked<'_>]) -> (Vec<u32>, Vec<u32>) {
    let host = logits.to_vec();
    let link = Link::new(Device::Cpu);
    let drawer = Drawer::new(vocabulary, &link).unwrap().unwrap();
    let (mut numbers, mut rules) = (Numbers::default(), Vec::new());
    let draws = Draws::new(asked, (vocabulary, 0), &mut numbers, &mut rules);
    let len = numbers.0.len();
    let numbers = link.up(numbers.0, len).unwrap();
    let count = rules.len() / COLUMNS;
    let rules = (count > 0).then(|| link.up(rules, (count, COLUMNS)).unwrap());
    let shape = (logits.len() / vocabulary, vocabulary);
    let logits = link.up(logits.to_vec(), shape).unwrap();
    let crossed = link.crossed();
    let found = drawer.draw(&link, &logits, &draws, &numbers, rules.as_ref());
    let found = found.unwrap();
    assert_eq!(
        link.crossed(),
        crossed,
        "nothing crosses while tokens are drawn"
    );
    let down = |tokens| link.down::<u32>(&tokens).unwrap();
    let mut answers = down(found.answers);
    let told = answers.split_off(asked.len());
    for ((asked, answer), told) in asked.iter().zip(&answers).zip(&told) {
        let row = &host[asked.row * vocabulary..][..vocabulary];
        let expected = learnt::of_text(row, *answer);
        let off = u64::from(expected).abs_diff(Learnt::of_drawn(Some(*told)).millibits);
        assert!(*answer == UNDECIDED || off <= 1, "{told} {expected}");
    }
    (answers, down(found.fed))
}

#[test]
fn the_same_tokens_are_drawn_as_on_the_host() {
    const POINTS: usize = 40;
    for vocabulary in [17, 512, 700, 1_024, 2_000, 5_000] {
        // Of larger vocabularies the host adds up only what may reach the kept part, and top-p's border moves a little.
        let exact = |params: &SamplingParams| vocabulary <= 2_048 || params.top_p >= 1.0;
        let all: Vec<SamplingParams> = rules().into_iter().filter(exact).collect();
        let logits = logits(all.len() * POINTS, vocabulary);
        let point = |at: usize| (at as f64 * 0.618_033_988_749_895).fract();
        let asked: Vec<Asked<'_>> = (0..all.len() * POINTS)
            .map(|row| Asked {
                row,
                params: &all[row % all.len()],
                point: point(row),
            })
            .collect();
        let (answers, fed) = drawn(&logits, vocabulary, &asked);
        let mut undecided = 0;
        for ((asked, answer), fed) in asked.iter().zip(answers).zip(fed) {
            let row = &logits[asked.row * vocabulary..][..vocabulary];
            let expected =
                sampler::draw(row, asked.params, sampler::Past::default(), asked.point).unwrap();
            assert!((fed as usize) < vocabulary);
            if answer == UNDECIDED {
                undecided += 1;
                continue;
            }
            let what = format!("{vocabulary}: {:?} at {}", asked.params, asked.point);
            assert_eq!((answer, fed), (expected, expected), "{what}");
        }
        // Only what cuts nothing off by number may need more candidates than there are.
        let may = if vocabulary > CANDIDATES {
            3 * POINTS
        } else {
            0
        };
        assert!(undecided <= may, "{vocabulary}: {undecided}");
    }
}

#[test]
fn where_candidates_do_not_suffice_the_host_decides() {
    let flat = vec![1.0; 2_000];
    let wide = params(|params| params.top_p = 0.9);
    let narrow = params(|params| params.top_p = 0.2);
    let asked = [&wide, &narrow].map(|params| Asked {
        row: 0,
        params,
        // Between two borders.
        point: 0.501,
    });
    let (answers, fed) = drawn(&flat, 2_000, &asked);
    assert_eq!(answers[0], UNDECIDED);
    assert!((fed[0] as usize) < 2_000);
    // Of 400 equals in the order of their ids the one in the middle.
    assert_eq!(
        answers[1],
        sampler::draw(&flat, &narrow, sampler::Past::default(), 0.501).unwrap()
    );
}

#[test]
fn of_equals_the_lowest_id_is_taken_and_what_is_not_finite_is_for_the_host() {
    let mut logits = vec![0.5; 3 * 600];
    logits[7] = 3.0;
    logits[599] = 3.0;
    logits[600 + 10] = f32::NAN;
    logits[1_200 + 10] = f32::INFINITY;
    let (greedy, warm) = (params(|params| params.temperature = 0.0), params(|_| ()));
    let cut = params(|params| params.top_k = 5);
    let each = [&greedy, &warm, &cut];
    let asked = (0..3).flat_map(|row| {
        each.map(|params| Asked {
            row,
            params,
            point: 0.25,
        })
    });
    let (answers, _) = drawn(&logits, 600, &asked.collect::<Vec<_>>());
    assert_eq!(answers[0], 7);
    assert!(answers[1] != UNDECIDED && answers[2] != UNDECIDED);
    assert_eq!(answers[3..], [UNDECIDED; 6]);
}

#[test]
fn what_only_the_host_can_do_is_left_to_it() {
    let changes: [fn(&mut SamplingParams); 5] = [
        |params| params.top_k = CANDIDATES + 1,
        |params| params.repetition_penalty = 1.1,
        |params| params.frequency_penalty = 0.5,
        |params| params.presence_penalty = 0.5,
        |params| params.logit_bias = vec![(3, 1.0)],
    ];
    for change in changes {
        assert!(!is_drawn(&params(change)));
    }
    assert!(rules().iter().all(is_drawn));
    let link = Link::new(Device::Cpu);
    assert!(Drawer::new(VOCABULARY_MAX + 1, &link).unwrap().is_none());
}
