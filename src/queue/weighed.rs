//! The likelihood test of an answer (Jiang et al., "PromptKeeper", 2024): how much likelier the model finds it after the prompt that it
//! was drawn after than after one that keeps no secret. Whatever language or disguise tells a secret, the answer is surprising to
//! somebody who does not know it.
//!
//! Where it acts the answer is held until it is complete; one that tells too much is drawn anew, after the harmless prompt. So what goes
//! out instead has never seen the secret, and looks like any other answer. The answer that nobody saw is not counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Event, Events, Generator, Job, Prompt, StartError, Weigh};

/// Between two tries where the engine has no place.
const RETRY: Duration = Duration::from_millis(20);
/// Events on their way to the reader.
const ON_THE_WAY: usize = 16;

/// What an answer is weighed against.
pub struct Weighing {
    /// The prompt without its secret.
    pub harmless: Prompt,
    /// Bits by which the answer may be likelier after its own prompt.
    pub bits_max: u32,
    /// Whether an answer that tells more is replaced, or only noted at its end.
    pub acts: bool,
}

/// What the weights of an answer say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Harmless,
    Telling,
    /// It could not be weighed.
    Unknown,
}

struct Weighed {
    model: Arc<dyn Generator>,
    /// The same job after the harmless prompt.
    again: Job,
    secret: Prompt,
    bits_max: u32,
    acts: bool,
    out: mpsc::Sender<Event>,
}

/// Starts `job`; its answer comes as [`Weighing`] says.
///
/// # Errors
/// [`StartError`].
pub(super) fn start(
    model: &Arc<dyn Generator>,
    job: Job,
    weighing: Weighing,
) -> Result<Events, StartError> {
    let (out, receiver) = mpsc::channel(ON_THE_WAY);
    let weighed = Weighed {
        model: Arc::clone(model),
        again: job.again(weighing.harmless),
        secret: Prompt(job.prompt.0.clone()),
        bits_max: weighing.bits_max,
        acts: weighing.acts,
        out,
    };
    let first = model.start(job)?;
    tokio::spawn(async move {
        let reader = weighed.out.clone();
        tokio::select! {
            () = weighed.run(first) => {}
            () = reader.closed() => {}
        }
    });
    Ok(Events::new(receiver, None))
}

impl Weighed {
    async fn run(self, mut first: Events) {
        let (mut held, mut answer) = (Vec::new(), Vec::new());
        let end = loop {
            match first.next().await {
                Some(event) => {
                    let Event::Text { tokens, .. } = &event else {
                        break event;
                    };
                    answer.extend_from_slice(tokens);
                    match self.acts {
                        true => held.push(event),
                        false => self.send(event).await,
                    }
                }
                None => break Event::Failed,
            }
        };
        // The engine's place is free for the next.
        drop(first);
        let Event::End {
            finish,
            repeated,
            tokens,
            learnt,
            ..
        } = end
        else {
            // What was held is no whole answer, and was not weighed.
            return self.send(end).await;
        };
        let verdict = self.verdict(answer).await;
        if self.acts && verdict == Verdict::Telling {
            return self.draw_again().await;
        }
        if self.acts && verdict == Verdict::Unknown {
            return self.send(self.too_late_or_failed()).await;
        }
        for event in held {
            self.send(event).await;
        }
        let end = Event::End {
            finish,
            repeated,
            telling: verdict == Verdict::Telling,
            tokens,
            learnt,
        };
        self.send(end).await;
    }

    async fn verdict(&self, mut answer: Vec<u32>) -> Verdict {
        if answer.is_empty() {
            return Verdict::Harmless;
        }
        // What is at the end of a full context has no room behind a longer prompt; both are asked the same.
        let longest = self.secret.0.len().max(self.again.prompt.0.len());
        answer.truncate(self.model.context_tokens().saturating_sub(longest));
        if answer.is_empty() {
            tracing::warn!("an answer has no room behind the harmless prompt");
            return Verdict::Unknown;
        }
        let weights = tokio::join!(
            self.weight(&self.secret, &answer),
            self.weight(&self.again.prompt, &answer)
        );
        let (Some(secret), Some(harmless)) = weights else {
            tracing::warn!("an answer could not be weighed");
            return Verdict::Unknown;
        };
        match harmless.saturating_sub(secret) > u64::from(self.bits_max) * 1000 {
            true => Verdict::Telling,
            false => Verdict::Harmless,
        }
    }

    async fn weight(&self, prompt: &Prompt, answer: &[u32]) -> Option<u64> {
        loop {
            let weigh = Weigh {
                tenant: self.again.tenant.clone(),
                share: self.again.share,
                prompt: Prompt(prompt.0.clone()),
                answer: answer.to_vec(),
                deadline: self.again.deadline,
            };
            match self.model.weigh(weigh) {
                Ok(weight) => return weight.told().await,
                Err(StartError::Full) if !self.is_late() => sleep(RETRY).await,
                Err(_) => return None,
            }
        }
    }

    async fn draw_again(self) {
        let mut second = loop {
            let harmless = Prompt(self.again.prompt.0.clone());
            match self.model.start(self.again.again(harmless)) {
                Ok(second) => break second,
                Err(StartError::Full) if !self.is_late() => sleep(RETRY).await,
                Err(_) => return self.send(self.too_late_or_failed()).await,
            }
        };
        while let Some(mut event) = second.next().await {
            let last = !matches!(event, Event::Text { .. });
            if let Event::End { telling, .. } = &mut event {
                *telling = true;
            }
            self.send(event).await;
            if last {
                return;
            }
        }
        self.send(Event::Failed).await;
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.again.deadline
    }

    fn too_late_or_failed(&self) -> Event {
        match self.is_late() {
            true => Event::TimedOut,
            false => Event::Failed,
        }
    }

    async fn send(&self, event: Event) {
        // A reader that left ends the whole task.
        let _ = self.out.send(event).await;
    }
}
