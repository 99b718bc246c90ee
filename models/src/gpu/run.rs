//! A step: everything that it needs is sent at once, its passes follow each other on the device, and what they drew comes
//! back at once.

use candle_core::{Result, Tensor};

use super::batch::{Numbers, Part, Pass};
use super::course::{Course, Ground, Left, Sent};
use super::draw::{Asked, COLUMNS, Draws, UNDECIDED};
use super::network::send;
use super::{GpuEngine, failed};
use crate::engine::{Draw, Drawn, StepError, Work, learnt, sampler};

/// What a step does, planned before anything runs.
struct Plan {
    course: Course,
    /// Rows of the first pass's logits that the host wants.
    wanted: std::ops::Range<usize>,
    /// Where each part's first draw stands among those of a pass, and its row of logits.
    draws: Vec<Option<(usize, usize)>>,
    numbers: Numbers,
    rules: Vec<f64>,
}

/// What a step came to.
struct Outcome {
    /// Logits of each pass, on the device.
    logits: Vec<Tensor>,
    /// Tokens of each pass, and behind them what each tells.
    drawn: Vec<Vec<u32>>,
}

/// What a part drew: tokens, and what each tells.
type Found = (Vec<u32>, Vec<u32>);

fn draw_of<'a, 'b>(draws: &'a [Option<Draw<'b>>], at: usize) -> Option<&'a Draw<'b>> {
    draws.get(at).and_then(Option::as_ref)
}

/// Tokens that a part draws beyond those from its own rows.
fn ahead(work: &Work<'_>, draw: Option<&Draw<'_>>) -> usize {
    draw.map_or(0, |draw| draw.points.len().saturating_sub(work.logits))
}

/// What is drawn from the first pass's logits; for each part where its draws begin and its rows of logits; and the rows
/// that the host wants.
type Asks<'a> = (Vec<Asked<'a>>, Vec<Option<(usize, usize)>>, Vec<u32>);

fn asks<'a>(parts: &[Part<'_>], draws: &'a [Option<Draw<'_>>]) -> Asks<'a> {
    let (mut asked, mut places, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    let mut end = 0;
    for (at, part) in parts.iter().enumerate() {
        let rows = end..end + part.logits;
        end = rows.end;
        let Some(draw) = draw_of(draws, at) else {
            wanted.extend(rows.map(|row| row as u32));
            places.push(None);
            continue;
        };
        places.push(Some((asked.len(), rows.start)));
        let points = rows.zip(&draw.points);
        asked.extend(points.map(|(row, point)| Asked {
            row,
            params: draw.params,
            point: *point,
        }));
    }
    (asked, places, wanted)
}

impl GpuEngine {
    pub(super) fn run(
        &mut self,
        batch: &[Work<'_>],
        draws: &[Option<Draw<'_>>],
        drawn: &mut Drawn,
    ) -> std::result::Result<(), StepError> {
        self.check(batch, draws)?;
        for (at, work) in batch.iter().enumerate() {
            let more = ahead(work, draw_of(draws, at));
            self.sequences
                .grow(work.sequence, work.tokens.len() + more)?;
        }
        let plan = self.plan(batch, draws)?;
        let places = plan.draws.clone();
        let left = self.passes(plan, drawn).map_err(|error| failed(&error))?;
        drawn.tokens.clear();
        drawn.millibits.clear();
        for (at, work) in batch.iter().enumerate() {
            let found = match (draw_of(draws, at), places.get(at)) {
                (Some(draw), Some(Some(place))) => Some(self.collect(work, draw, *place, &left)?),
                _ => None,
            };
            let (tokens, millibits) = found.unzip();
            self.sequences.advance(work.sequence, work.tokens);
            // What was fed back went through the model, too.
            if let (Some((_, fed)), 1..) = (
                tokens.as_deref().and_then(<[u32]>::split_last),
                ahead(work, draw_of(draws, at)),
            ) {
                self.sequences.advance(work.sequence, fed);
            }
            drawn.tokens.push(tokens);
            drawn.millibits.push(millibits);
        }
        Ok(())
    }

    /// What would make a device compute nonsense, or worse.
    fn check(
        &mut self,
        batch: &[Work<'_>],
        draws: &[Option<Draw<'_>>],
    ) -> std::result::Result<(), StepError> {
        let refused = |why: &str| Err(StepError(why.to_owned()));
        let known = |id: &u32| (*id as usize) < self.network.config().vocabulary;
        if batch.is_empty() || batch.iter().any(|work| work.tokens.is_empty()) {
            return refused("a batch is empty");
        }
        if !batch.iter().flat_map(|work| work.tokens).all(known) {
            return refused("a token is outside the vocabulary");
        }
        let capacity = self.capacity;
        let (memory, sequences) = self.sequences.split();
        if !memory.is_sound() {
            return refused("a page of keys and values could not be wiped");
        }
        let aheads = batch.iter().enumerate();
        let aheads = aheads.map(|(at, work)| ahead(work, draw_of(draws, at)));
        let aheads: Vec<usize> = aheads.collect();
        let most = aheads.iter().copied().max().unwrap_or_default();
        for (at, (work, ahead)) in batch.iter().zip(&aheads).enumerate() {
            let len = sequences.of(work.sequence)?.len() + work.tokens.len() + ahead;
            if len > capacity {
                return refused("a sequence is longer than it may be");
            }
            let draw = draw_of(draws, at);
            let feeds = most > 0 && (*ahead != most || work.logits != 1);
            if feeds || draw.is_some_and(|draw| draw.points.len() < work.logits) {
                return refused("a step was asked for that does not exist");
            }
        }
        Ok(())
    }

    fn plan(
        &mut self,
        batch: &[Work<'_>],
        draws: &[Option<Draw<'_>>],
    ) -> std::result::Result<Plan, StepError> {
        let vocabulary = self.network.config().vocabulary;
        let (memory, sequences) = self.sequences.split();
        let shape = self.network.shape(memory);
        let part = |work: &Work<'_>| {
            let sequence = sequences.of(work.sequence)?;
            Ok(Part {
                pages: sequence.pages(),
                before: sequence.len(),
                rows: work.tokens.len(),
                logits: work.logits.min(work.tokens.len()),
            })
        };
        let mut parts = batch
            .iter()
            .map(part)
            .collect::<std::result::Result<Vec<_>, StepError>>()?;
        let (mut numbers, mut rules) = (Numbers::default(), Vec::new());
        let padding = shape.padding(&parts);
        let tokens = batch.iter().flat_map(|work| work.tokens).copied();
        let tokens = numbers.put(tokens.chain(std::iter::repeat_n(0, padding)));
        // What is drawn is fed to passes that have a row of each sequence.
        let fed = shape.padding_of_one_each(parts.len());
        let (mut asked, places, wanted) = asks(&parts, draws);
        let wanted = numbers.put(wanted);
        let pass = Pass::new(&parts, &shape, &mut numbers);
        let first = (!asked.is_empty())
            .then(|| Draws::new(&asked, (vocabulary, fed), &mut numbers, &mut rules));
        let mut passes = vec![(pass, first)];
        let ahead = batch
            .first()
            .map_or(0, |work| ahead(work, draw_of(draws, 0)));
        for further in 1..=ahead {
            for part in &mut parts {
                (part.before, part.rows) = (part.before + part.rows, 1);
            }
            for (at, asked) in asked.iter_mut().enumerate() {
                let point = draw_of(draws, at).and_then(|draw| draw.points.get(further));
                asked.point = point.copied().unwrap_or_default();
            }
            let pass = Pass::new(&parts, &shape, &mut numbers);
            let draws = Draws::new(&asked, (vocabulary, fed), &mut numbers, &mut rules);
            passes.push((pass, Some(draws)));
        }
        let course = Course {
            passes,
            tokens,
            sent: (numbers.0.len(), rules.len()),
        };
        Ok(Plan {
            course,
            wanted,
            draws: places,
            numbers,
            rules,
        })
    }

    /// Sends the plan, takes its passes, and brings back the logits that are wanted and all tokens.
    fn passes(&mut self, plan: Plan, drawn: &mut Drawn) -> Result<Outcome> {
        let (memory, _) = self.sequences.split();
        let ground = Ground {
            network: &self.network,
            drawer: self.drawer.as_ref(),
            memory,
            link: &self.link,
        };
        let link = ground.link;
        let rows = plan.rules.len() / COLUMNS;
        let rules = (rows > 0).then(|| link.up(plan.rules, (rows, COLUMNS)));
        let numbers = send(link, plan.numbers)?;
        let wanted = numbers.narrow(0, plan.wanted.start, plan.wanted.len())?;
        let sent = Sent {
            numbers,
            rules: rules.transpose()?,
        };
        let Left { logits, answers } =
            self.recordings
                .take(plan.course, sent, link.device(), &ground)?;
        drawn.logits.clear();
        if let (Some(logits), false) = (logits.first(), plan.wanted.is_empty()) {
            let rows = match plan.wanted.len() == logits.dim(0)? {
                true => logits.clone(),
                false => {
                    let _kept = link.parameters_kept();
                    logits.index_select(&wanted, 0)?
                }
            };
            drawn.logits = link.down(&rows)?;
        }
        let count = answers.first().map_or(0, Tensor::elem_count);
        let answers = match answers.as_slice() {
            [] => Vec::new(),
            [one] => link.down::<u32>(one)?,
            several => link.down::<u32>(&Tensor::cat(several, 0)?)?,
        };
        Ok(Outcome {
            logits,
            drawn: answers.chunks(count.max(1)).map(<[u32]>::to_vec).collect(),
        })
    }

    /// A part's tokens. Where the device could not decide, the host does, and what was drawn behind that is dropped; where
    /// nothing can be drawn there is no token more.
    fn collect(
        &self,
        work: &Work<'_>,
        draw: &Draw<'_>,
        (first, first_row): (usize, usize),
        left: &Outcome,
    ) -> std::result::Result<Found, StepError> {
        let (mut tokens, mut millibits) = (Vec::new(), Vec::new());
        for (at, point) in draw.points.iter().enumerate() {
            // The rows of the first pass, then one of each further pass.
            let (pass, row) = match at.checked_sub(work.logits) {
                None => (0, at),
                Some(further) => (further + 1, 0),
            };
            let answers = left.drawn.get(pass).map_or(&[][..], Vec::as_slice);
            let (ids, told) = answers.split_at(answers.len() / 2);
            let answer = ids.get(first + row).zip(told.get(first + row));
            match answer {
                Some((token, told)) if *token != UNDECIDED => {
                    tokens.push(*token);
                    millibits.push(*told);
                }
                _ => {
                    let logits = left.logits.get(pass);
                    let logits = logits.ok_or_else(|| StepError("logits are missing".into()))?;
                    let row = logits.narrow(0, first_row + row, 1);
                    let row = row.and_then(|row| self.link.down::<f32>(&row));
                    let row = row.map_err(|error| failed(&error))?;
                    let Ok(token) =
                        sampler::draw(&row, draw.params, sampler::Past::default(), *point)
                    else {
                        break;
                    };
                    tokens.push(token);
                    millibits.push(learnt::of_text(&row, token));
                    if pass + 1 < left.drawn.len() {
                        break;
                    }
                }
            }
        }
        Ok((tokens, millibits))
    }
}
