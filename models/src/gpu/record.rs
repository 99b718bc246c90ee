//! Courses that come again are recorded once and played from then on: hundreds of kernels for one call of the driver's,
//! where each cost the host some 8 µs before. On CUDA a recording is a graph (CUDA programming guide, "CUDA Graphs");
//! elsewhere the course is taken again, from and into the same tensors, so that processors test what is kept.
//!
//! What a recording holds by address, and why it stays: weights, keys and values live as long as the engine; numbers, rules
//! and what is left are tensors of the recording; candle keeps shapes and strides for the life of the process
//! ([`Link::parameters_kept`]). candle's workspaces for products of blocks are the exception: they grow with the rows of a
//! product, and what was recorded before is then forgotten ([`Recordings::note`]).

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};

use super::course::{Course, Ground, Left, Sent};

/// Recordings that are kept, and courses that were seen.
const RECORDINGS_MAX: usize = 96;
const SEEN_MAX: usize = 1024;
/// Rows of logits that all passes of a recorded course have at most.
const LOGITS_MAX: usize = 128;
/// Rows of a pass of a recorded course at most: what lies between its operations stays reserved, and longer prompts keep a
/// GPU busy by themselves.
const ROWS_MAX: usize = 128;
/// After so many refusals nothing is recorded any more.
const REFUSALS_MAX: usize = 16;
/// Rows up to which candle multiplies blocks in another way, with a workspace of its own.
const FEW_ROWS: usize = 8;

/// What was recorded, and what may be.
pub(super) struct Recordings {
    known: HashMap<Course, Known>,
    /// Where recorded passes leave their logits, one recording after another: rows × vocabulary.
    logits: Option<Tensor>,
    /// Most rows of a product yet, few and many.
    most: [usize; 2],
    now: u64,
    /// How often the device refused to record.
    refusals: usize,
}

enum Known {
    /// It was taken once and left tensors of these sizes: rows of logits of each pass, and answers.
    Seen(Vec<usize>, Vec<usize>),
    Recorded(Recording),
}

struct Recording {
    sent: Sent,
    left: Left,
    tape: Tape,
    /// When it was last played.
    played: u64,
}

impl Recordings {
    pub(super) fn new() -> Self {
        Self {
            known: HashMap::new(),
            logits: None,
            most: [0; 2],
            now: 0,
            refusals: 0,
        }
    }

    /// Bytes that recordings share.
    pub(super) fn byte_len(vocabulary: usize) -> u64 {
        (LOGITS_MAX * size_of::<f32>()) as u64 * vocabulary as u64
    }

    /// Takes a course with what was sent: plays it if it is recorded, records it when it comes for the second time. What
    /// is left holds until the next step.
    pub(super) fn take(
        &mut self,
        course: Course,
        sent: Sent,
        device: &Device,
        ground: &Ground<'_>,
    ) -> Result<Left> {
        self.note(&course);
        let logits: usize = course.rows().map(|(_, wanted)| wanted).sum();
        let recordable = course.generates()
            && course.rows().all(|(rows, _)| rows <= ROWS_MAX)
            && logits <= LOGITS_MAX
            && ground.network.stays();
        if !recordable || self.refusals >= REFUSALS_MAX {
            return course.take(ground, &sent);
        }
        self.now += 1;
        match self.known.get_mut(&course) {
            Some(Known::Recorded(recording)) => {
                recording.played = self.now;
                recording.fill(&sent)?;
                recording.play(&course, ground)
            }
            Some(Known::Seen(logits, answers)) => {
                let sizes = (logits.clone(), answers.clone());
                self.record(course, sent, sizes, device, ground)
            }
            None => {
                let left = course.take(ground, &sent)?;
                let rows = |tensors: &[Tensor]| {
                    let rows = tensors.iter().map(|tensor| tensor.dim(0));
                    rows.collect::<Result<Vec<_>>>()
                };
                if self.known.len() >= SEEN_MAX {
                    self.known
                        .retain(|_, known| matches!(known, Known::Recorded(_)));
                }
                let seen = Known::Seen(rows(&left.logits)?, rows(&left.answers)?);
                self.known.insert(course, seen);
                Ok(left)
            }
        }
    }

    fn record(
        &mut self,
        course: Course,
        sent: Sent,
        (logits, answers): (Vec<usize>, Vec<usize>),
        device: &Device,
        ground: &Ground<'_>,
    ) -> Result<Left> {
        self.make_room();
        // Where there is no memory for a recording there is for a step.
        let Ok(left) = self.places(&logits, &answers, device, ground) else {
            self.refusals += 1;
            return course.take(ground, &sent);
        };
        let filled = || fill(&left, &course.take(ground, &sent)?);
        let Some(tape) = Tape::record(device, ground.link, filled)? else {
            self.refusals += 1;
            return course.take(ground, &sent);
        };
        let recording = Recording {
            sent,
            left,
            tape,
            played: self.now,
        };
        let left = recording.play(&course, ground)?;
        self.known.insert(course, Known::Recorded(recording));
        Ok(left)
    }

    /// Tensors for what a recording leaves.
    fn places(
        &mut self,
        logits: &[usize],
        answers: &[usize],
        device: &Device,
        ground: &Ground<'_>,
    ) -> Result<Left> {
        let vocabulary = ground.network.config().vocabulary;
        let shared = match &self.logits {
            Some(shared) => shared.clone(),
            None => Tensor::zeros((LOGITS_MAX, vocabulary), DType::F32, device)?,
        };
        let own = Tensor::zeros(answers.iter().sum::<usize>().max(1), DType::U32, device)?;
        let left = Left {
            logits: parts(&shared, logits)?,
            answers: parts(&own, answers)?,
        };
        self.logits = Some(shared);
        Ok(left)
    }

    /// Forgets all recordings before candle gives workspaces back that they use: those grow when a product has more rows
    /// than any before it, and there is one for few rows and one for many.
    fn note(&mut self, course: &Course) {
        let [mut few, mut many] = self.most;
        for rows in course.rows().flat_map(|(rows, wanted)| [rows, wanted]) {
            match rows > FEW_ROWS {
                true => many = rows.max(many),
                false => few = rows.max(few),
            }
        }
        if [few, many] != self.most {
            self.most = [few, many];
            self.known.clear();
        }
    }

    fn make_room(&mut self) {
        let played = self.known.iter().filter_map(|(course, known)| match known {
            Known::Recorded(recording) => Some((recording.played, course)),
            _ => None,
        });
        let played: Vec<_> = played.collect();
        if played.len() < RECORDINGS_MAX {
            return;
        }
        let oldest = played.into_iter().min_by_key(|(played, _)| *played);
        if let Some(oldest) = oldest.map(|(_, course)| course.clone()) {
            self.known.remove(&oldest);
        }
    }
}

/// Rows of a tensor, one part after another.
fn parts(tensor: &Tensor, sizes: &[usize]) -> Result<Vec<Tensor>> {
    let mut end = 0;
    let parts = sizes.iter().map(|size| {
        end += size;
        tensor.narrow(0, end - size, *size)
    });
    parts.collect()
}

/// Copies what a course left to where its recording leaves it.
fn fill(places: &Left, left: &Left) -> Result<()> {
    let logits = places.logits.iter().zip(&left.logits);
    let answers = places.answers.iter().zip(&left.answers);
    logits
        .chain(answers)
        .try_for_each(|(place, found)| place.slice_set(found, 0, 0))
}

impl Recording {
    /// Puts what is sent where the recording reads it.
    fn fill(&self, sent: &Sent) -> Result<()> {
        self.sent.numbers.slice_set(&sent.numbers, 0, 0)?;
        match (&self.sent.rules, &sent.rules) {
            (Some(place), Some(rules)) => place.slice_set(rules, 0, 0),
            _ => Ok(()),
        }
    }

    fn play(&self, course: &Course, ground: &Ground<'_>) -> Result<Left> {
        if !self.tape.play()? {
            fill(&self.left, &course.take(ground, &self.sent)?)?;
        }
        Ok(Left {
            logits: self.left.logits.clone(),
            answers: self.left.answers.clone(),
        })
    }
}

#[cfg(feature = "cuda")]
use super::graph::Tape;

#[cfg(not(feature = "cuda"))]
use super::link::Link;

/// Without CUDA nothing is recorded: the course is taken again.
#[cfg(not(feature = "cuda"))]
struct Tape;

#[cfg(not(feature = "cuda"))]
impl Tape {
    fn record(_: &Device, _: &Link, _: impl FnOnce() -> Result<()>) -> Result<Option<Self>> {
        Ok(Some(Self))
    }

    fn play(&self) -> Result<bool> {
        Ok(false)
    }
}
