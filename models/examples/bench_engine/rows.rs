//! From the figures of some rounds to rows with the product's bars. Pure.

use casemate_models::engine::KvKind;

use crate::facts::{Facts, Size};
use crate::job::{CONTEXTS, CROSSINGS, DEPTHS, Figures, Job, cache_of, context_key};
use crate::options::Options;
use crate::report::Round;
use crate::row::{Bar, Row};

/// The rows of a job, and one of its crossings where there were any.
pub fn of(job: Job, facts: &Facts, rounds: &[Round], options: &Options) -> Vec<Row> {
    let mut rows = of_job(job, facts, rounds, options);
    let crossed: Vec<_> = rounds
        .iter()
        .map(|round| (round.ours.get(CROSSINGS).copied(), None))
        .collect();
    if crossed.iter().any(|(ours, _)| ours.is_some()) {
        let name = format!("{}, crossings per token", job.name());
        rows.push(Row::new(&facts.name, &name, "copies", vec![], crossed));
    }
    rows
}

fn of_job(job: Job, facts: &Facts, rounds: &[Round], options: &Options) -> Vec<Row> {
    let row = |name: &str, unit, bars: Vec<Bar>, of: &dyn Fn(&Figures, &Round) -> Option<f64>| {
        let pairs = rounds
            .iter()
            .map(|round| (of(&round.ours, round), of(&round.peer, round)));
        Row::new(&facts.name, name, unit, bars, pairs.collect())
    };
    match job {
        Job::Decode => vec![
            row("decode", "tok/s", decode_bars(facts), &|figures, _| {
                figures.get("decode").copied()
            }),
            row(
                "decode, share of memory bandwidth",
                "of 1",
                share_bars(facts),
                &|figures, round| {
                    let bytes = figures.get("decode")? * facts.bytes_per_token;
                    Some(bytes / 1e9 / round.bandwidth?)
                },
            ),
        ],
        Job::Batch(sequences) => {
            let name = format!("decode, {sequences} sequences together");
            vec![row(
                &name,
                "tok/s",
                batch_bars(facts, sequences),
                &|figures, _| figures.get("batch").copied(),
            )]
        }
        Job::Prefill => prefill_rows(facts, options, &row),
        Job::Start | Job::Sealed => {
            let sealed = job == Job::Sealed;
            let name = match sealed {
                true => "start to first token, sealed (peer: plain)",
                false => "start to first token",
            };
            let bars = match sealed && small(facts, "Q4_K_M") {
                true => vec![Bar::AtMost(1.0), Bar::RatioAtMost(1.0)],
                false => vec![],
            };
            vec![row(name, "s", bars, &|figures, _| {
                figures.get("start").copied()
            })]
        }
        Job::Memory => {
            let bars = match facts.size == Size::Large && facts.quantisation == "Q4_K_M" {
                true => vec![Bar::AtMost(5.5 * 1024.0)],
                false => vec![],
            };
            vec![row(
                "peak memory, context of 4096",
                "MiB",
                bars,
                &|figures, _| figures.get("memory").copied(),
            )]
        }
        Job::Depths => DEPTHS
            .map(|context| {
                let key = context_key(context);
                row(&key, "tok/s", vec![], &|figures, _| {
                    figures.get(&key).copied()
                })
            })
            .into(),
        Job::Context | Job::ContextF16 => context_rows(job, facts, options, &row),
    }
}

/// Makes a row of a name, a unit, bars, and a figure of each side of a round.
type MakeRow<'a> =
    dyn Fn(&str, &'static str, Vec<Bar>, &dyn Fn(&Figures, &Round) -> Option<f64>) -> Row + 'a;

/// The bar is for keys and values in 8 bits.
fn context_rows(job: Job, facts: &Facts, options: &Options, row: &MakeRow<'_>) -> Vec<Row> {
    let at = |figures: &Figures, context| figures.get(&context_key(context)).copied();
    let [short, long] = CONTEXTS;
    let (cache, bars) = match cache_of(job, options.device) {
        KvKind::Q8 => (
            "8-bit cache",
            bars_where(facts.size != Size::Other, Bar::AtLeast(0.8)),
        ),
        KvKind::F16 => ("F16 cache", vec![]),
    };
    let speed = |context| {
        let name = format!("{}, {cache}", context_key(context));
        row(&name, "tok/s", vec![], &|figures, _| at(figures, context))
    };
    let name = format!("decode, {long} against {short}, {cache}");
    vec![
        speed(short),
        speed(long),
        row(&name, "of 1", bars, &|figures, _| {
            Some(at(figures, long)? / at(figures, short)?)
        }),
    ]
}

fn prefill_rows(facts: &Facts, options: &Options, row: &MakeRow<'_>) -> Vec<Row> {
    let speed = |figures: &Figures| figures.get("prefill").copied();
    let bars = prefill_bars(facts);
    let mut rows = vec![row("prefill 512", "tok/s", bars, &|figures, _| {
        speed(figures)
    })];
    if let Some(peak) = options.int8_peak {
        let bars = bars_where(small(facts, "Q4_K_M"), Bar::AtLeast(0.6));
        let name = "prefill 512, share of the int8 peak";
        rows.push(row(name, "of 1", bars, &|figures, _| {
            Some(speed(figures)? * facts.operations_per_token / 1e9 / peak)
        }));
    }
    rows
}

fn small(facts: &Facts, quantisation: &str) -> bool {
    facts.size == Size::Small && facts.quantisation == quantisation
}

fn bars_where(applies: bool, bar: Bar) -> Vec<Bar> {
    applies.then_some(bar).into_iter().collect()
}

fn decode_bars(facts: &Facts) -> Vec<Bar> {
    let applies = small(facts, "Q4_K_M") || small(facts, "Q8_0");
    bars_where(applies, Bar::RatioAtLeast(1.25))
}

fn share_bars(facts: &Facts) -> Vec<Bar> {
    let applies = small(facts, "Q4_K_M") || small(facts, "Q8_0");
    bars_where(applies, Bar::AtLeast(0.85))
}

fn batch_bars(facts: &Facts, sequences: usize) -> Vec<Bar> {
    let least = match sequences {
        4 => 2.5,
        8 => 3.5,
        16 => 2.2,
        _ => return vec![],
    };
    bars_where(small(facts, "Q4_K_M"), Bar::RatioAtLeast(least))
}

fn prefill_bars(facts: &Facts) -> Vec<Bar> {
    let least = match facts.quantisation.as_str() {
        "Q4_K_M" | "Q4_0" => 1.5,
        "Q8_0" => 2.5,
        "F16" => 1.3,
        _ => return vec![],
    };
    bars_where(facts.size == Size::Small, Bar::RatioAtLeast(least))
}
