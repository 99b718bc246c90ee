//! How likely the model finds an answer that is given: nothing is drawn, every token is looked up in the logits before it. What a
//! guard compares when it asks which of two prompts an answer came from.

use std::ops::ControlFlow;
use std::time::Instant;

use super::request::{Event, FinishReason, GenerateRequest, Sink, Tenant};
use super::sampler::SamplingParams;

/// A request to weigh an answer.
pub struct WeighRequest {
    /// For whom: it takes part in fairness, and in what is kept of prompts, as a request for text does.
    pub tenant: Tenant,
    /// The tenant's share beside others', above 0.
    pub weight: u32,
    /// Ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Ids of the answer, at least one; none that ends answers.
    pub answer: Vec<u32>,
    /// When it ends even if it is not complete.
    pub deadline: Option<Instant>,
}

/// Gets an answer's surprise after its prompt, in thousandths of a bit: each token's as [`Learnt`](super::Learnt) bounds it, added up.
/// `None` where it was cut off. Called once, on the engine's thread, so it must not wait.
pub type Weighed = Box<dyn FnOnce(Option<u64>) + Send>;

impl WeighRequest {
    /// As the engine runs it: a request for text whose tokens are dictated, with the receiver of its events.
    pub(super) fn dictated(self, told: Weighed) -> (GenerateRequest, Vec<u32>, Sink) {
        let request = GenerateRequest {
            tenant: self.tenant,
            weight: self.weight,
            prompt: self.prompt,
            sampling: SamplingParams::default(),
            tokens_max: Some(self.answer.len()),
            stop: Vec::new(),
            // No number is drawn.
            seed: Some(0),
            grammar: None,
            logprobs: None,
            mark: None,
            repetition: None,
            deadline: self.deadline,
        };
        (request, self.answer, sink(told))
    }
}

/// Adds up what the events say.
fn sink(told: Weighed) -> Sink {
    let mut told = Some(told);
    let mut millibits = 0_u64;
    Box::new(move |event| {
        let whole = match event {
            Event::Text { learnt, .. } => {
                millibits = millibits.saturating_add(learnt.millibits);
                return ControlFlow::Continue(());
            }
            Event::Finished { reason, learnt, .. } => {
                millibits = millibits.saturating_add(learnt.millibits);
                reason == FinishReason::Length
            }
            Event::Failed { .. } => false,
        };
        if let Some(told) = told.take() {
            told(whole.then_some(millibits));
        }
        ControlFlow::Break(())
    })
}
