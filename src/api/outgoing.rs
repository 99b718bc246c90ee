//! What a request gets of the guard on the way out: which options are granted and what is told of probabilities, where its
//! random numbers come from, whose mark the answer carries, and what is kept in.

use std::time::Instant;

use casemate_models::engine::{MarkKey, RepetitionRule, Reveal};

use super::fields::invalid;
use super::generate::Source;
use super::sse::Endpoint;
use super::wire::{Message, Options, Role};
use super::{ApiError, Service};
use crate::guard::keep::Keeper;
use crate::guard::mark::TeamMark;
use crate::guard::noise::Chosen;
use crate::guard::outlet::any_sub_key;
use crate::guard::reveal::{Asked, Withheld, shifts};
use crate::policy::{Granted, OutputRules, Switch};
use crate::queue::{Generator, Prompt, TokenLogprobs, Weighing};

/// The same one to four tokens so often in a row: nothing that anybody wants (GUARD section 1.3).
const REPETITIONS_MAX: u32 = 64;

/// What stands in place of a system prompt.
const HARMLESS: &str = "You are a helpful assistant.";

/// A piece of an answer, with what is told of its tokens.
pub(super) struct Said {
    pub(super) text: String,
    pub(super) logprobs: Vec<TokenLogprobs>,
}

impl AsRef<str> for Said {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// What the audit log says of an answer's way out.
#[derive(Debug, Clone, Default)]
pub(super) struct Trace {
    /// Of which epoch the keys are that it is marked with.
    pub(super) mark_epoch: Option<u32>,
    /// What was seen.
    pub(super) noted: Vec<&'static str>,
}

/// What of the guard a request gets.
pub(super) struct Outgoing {
    rules: OutputRules,
    /// What is told of probabilities.
    pub(super) reveal: Option<Reveal>,
    team: Option<TeamMark>,
    pub(super) trace: Trace,
}

impl Outgoing {
    /// What `options` are granted.
    ///
    /// # Errors
    /// [`ApiError`] names the option that is not.
    pub(super) fn new(
        service: &Service,
        granted: &Granted,
        model: &dyn Generator,
        endpoint: Endpoint,
        options: &Options,
    ) -> Result<Self, ApiError> {
        let rules = granted.limits().output.clone();
        let asked = Asked {
            sampling: &options.sampling,
            logprobs: options.logprobs,
            seeded: options.seed.is_some(),
            shaped: options.shape.is_some(),
        };
        let reveal = asked.granted(&rules, model.width());
        let reveal = reveal.map_err(|withheld| refusal(withheld, endpoint))?;
        let epoch = service.access.bundle().document().mark_epoch;
        Ok(Self {
            rules,
            reveal,
            team: service.outlet.team(granted.team(), epoch),
            trace: Trace::default(),
        })
    }

    /// The answer's way out, for a prompt that gets the team's canary.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] where the system prompt is too long to be looked for.
    pub(super) fn keeper(
        &self,
        service: &Service,
        granted: &Granted,
        source: &mut Source,
    ) -> Result<Keeper<Said>, ApiError> {
        let Source::Chat(messages) = source else {
            return Ok(Keeper::open());
        };
        let system = messages.iter_mut().filter(|one| one.role == Role::System);
        let mut system: Vec<_> = system.map(|message| &mut message.content).collect();
        let secret = system.iter().map(|text| text.as_str()).collect::<Vec<_>>();
        let secret = secret.join("\n");
        let canary = match (&self.team, self.rules.canary) {
            (Some(team), Switch::Shadow | Switch::On) => Some(team.canary()),
            _ => None,
        };
        if let (Some(first), Some(canary)) = (system.first_mut(), &canary) {
            first.push_str("\n[");
            first.push_str(canary);
            first.push(']');
        }
        let canary = canary.map(|canary| (canary, self.rules.canary));
        let secrets = service.outlet.secrets();
        let (team, now) = (granted.team().as_str(), Instant::now());
        let known = |text: &str, letters_max| secrets.of(team, text, letters_max, now);
        Keeper::with(&secret, self.rules.leak, canary, known)
            .map_err(|too_long| invalid("messages", &too_long.to_string()))
    }

    /// The conversation without its secret, where answers are weighed against it.
    pub(super) fn harmless(&self, source: &Source) -> Option<Source> {
        let Source::Chat(messages) = source else {
            return None;
        };
        let secret = |message: &Message| message.role == Role::System;
        if self.rules.likelihood == Switch::Off || !messages.iter().any(secret) {
            return None;
        }
        let harmless = messages.iter().map(|message| match secret(message) {
            true => Message {
                role: Role::System,
                content: HARMLESS.to_owned(),
            },
            false => message.clone(),
        });
        Some(Source::Chat(harmless.collect()))
    }

    /// How an answer is weighed that [`Self::harmless`] gave a prompt for.
    pub(super) fn weighing(&self, harmless: Prompt) -> Weighing {
        Weighing {
            harmless,
            bits_max: self.rules.likelihood_bits,
            acts: self.rules.likelihood == Switch::On,
        }
    }

    /// What the draws come from, where the caller gave a seed.
    pub(super) fn seed(
        &self,
        service: &Service,
        granted: &Granted,
        endpoint: Endpoint,
        options: &Options,
        prompt: &Prompt,
    ) -> Option<u64> {
        let chosen = Chosen {
            endpoint: match endpoint {
                Endpoint::Chat => "chat",
                Endpoint::Completion => "completion",
            },
            model: granted.model().digest(),
            sampling: &options.sampling,
            shape: options.shape.as_ref(),
            stop: &options.stop,
            tokens_max: options.tokens_max,
            logprobs: options.logprobs,
            prompt: &prompt.0,
        };
        let noise = service.outlet.noise();
        options
            .seed
            .map(|seed| noise.seed(granted.principal(), seed, &chosen))
    }

    /// Whose mark the answer carries. Where an option would make an oracle of noise that comes again there is none.
    ///
    /// # Errors
    /// [`ApiError::Internal`] without randomness.
    pub(super) fn mark(&mut self, options: &Options) -> Result<Option<MarkKey>, ApiError> {
        let free = options.seed.is_none()
            && options.logprobs.is_none()
            && options.shape.is_none()
            && !shifts(&options.sampling)
            && options.sampling.temperature > 0.0;
        if self.rules.mark == Switch::Off || !free {
            return Ok(None);
        }
        let Some(team) = &self.team else {
            self.trace.noted.push("no_mark_key");
            return Ok(None);
        };
        if self.rules.mark == Switch::Shadow {
            self.trace.noted.push("mark");
            return Ok(None);
        }
        let number = any_sub_key().map_err(|_| ApiError::Internal)?;
        self.trace.mark_epoch = Some(team.epoch());
        Ok(Some(team.sub_key(number)))
    }

    /// When an answer that repeats itself ends.
    pub(super) fn repetition(&self) -> Option<RepetitionRule> {
        (self.rules.repetition != Switch::Off).then_some(RepetitionRule {
            times_max: REPETITIONS_MAX,
            stops: self.rules.repetition == Switch::On,
        })
    }
}

fn refusal(withheld: Withheld, endpoint: Endpoint) -> ApiError {
    let unsupported = |param: &str, hint| ApiError::Unsupported {
        param: param.to_owned(),
        hint,
    };
    let count = match endpoint {
        Endpoint::Chat => "top_logprobs",
        Endpoint::Completion => "logprobs",
    };
    match withheld {
        Withheld::Temperature { percent_max } => {
            let most = f64::from(percent_max) / 100.0;
            invalid(
                "temperature",
                &format!("a number from 0 to {most} for your team"),
            )
        }
        Withheld::Logprobs { max } => {
            let expected = format!("a whole number from 0 to {max} for your team and this model");
            invalid(count, &expected)
        }
        Withheld::Penalty { param } => unsupported(param, "; your team's policy does not grant it"),
        Withheld::Together {
            param,
            beside,
            by_policy,
        } => {
            let hint = match (beside, by_policy) {
                ("logprobs", true) => {
                    "; ask without 'logprobs', unless your team's policy grants both together"
                }
                ("logprobs", false) => "; ask without 'logprobs'",
                _ => "; ask without 'seed'",
            };
            unsupported(param, hint)
        }
    }
}
