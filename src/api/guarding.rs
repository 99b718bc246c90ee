//! Where requests meet the extraction guard: before the queue, where a step or a spent budget says no, and after the answer,
//! which is charged while it comes and whose prompt is looked at when it ends.

use std::sync::Arc;

use casemate_models::engine::{Learnt, SamplingParams};

use super::access::Caller;
use super::wire::{Message, Options, Role};
use super::{ApiError, Service};
use crate::guard::reveal::shifts;
use crate::guard::scaffold::Wording as Sealed;
use crate::guard::{
    Accounts, Asked, Conditions, MeterError, Prompt, Refusal, Tally, Terms, Wants, WithheldOption,
    Wording,
};
use crate::policy::{Action, Granted, GuardMode, GuardPolicy, ModelRef, PolicyBundle};
use crate::queue::TokenLogprobs;
use crate::sentry::{Reader, Seen, Standing};
use crate::session::now;

/// A request that the guard lets through.
pub(super) struct Passed {
    bundle: Arc<PolicyBundle>,
    standing: Standing,
    /// What it has to live with.
    pub(super) conditions: Conditions,
    accounts: Accounts,
    terms: Terms,
}

/// What was read of a prompt, away from the threads that serve others.
pub(super) struct Read {
    prompt: Prompt,
    kept: Vec<Sealed>,
    wording: Option<Wording>,
}

/// How a prompt is read.
pub(super) struct Glance {
    reader: Reader,
    /// Whether the caller has declared workloads to compare with.
    compares: bool,
}

impl Glance {
    pub(super) fn read(&self, text: &str) -> Read {
        let (prompt, kept) = self.reader.read(text);
        Read {
            prompt,
            kept,
            wording: self.compares.then(|| Wording::of(text)),
        }
    }
}

/// What a caller asks last: a template stands there, and what came before was looked at in its time.
pub(super) fn last_turn(messages: &[Message]) -> &str {
    let turns = messages.iter().rev();
    let mut of_user = turns.filter(|message| message.role == Role::User);
    of_user.next().map_or("", |message| &message.content)
}

/// Whether the model's own words are begun by the caller.
pub(super) fn begins_the_answer(messages: &[Message]) -> bool {
    messages
        .last()
        .is_some_and(|message| message.role == Role::Assistant)
}

/// Whether tokens will be chosen as the caller arranges: by a bias, or by penalties where there is no noise. Where there is some,
/// each step shows by itself whether it decided anything.
fn arranges(sampling: &SamplingParams) -> bool {
    let biased = !sampling.logit_bias.is_empty();
    biased || (sampling.temperature == 0.0 && shifts(sampling))
}

impl Options {
    fn options_of_the_ladder(&self, prefill: bool) -> Vec<WithheldOption> {
        let uses = |option: &WithheldOption| match option {
            WithheldOption::Logprobs => self.logprobs.is_some(),
            WithheldOption::LogitBias => !self.sampling.logit_bias.is_empty(),
            WithheldOption::Prefill => prefill,
            WithheldOption::Seed => self.seed.is_some(),
        };
        WithheldOption::ALL.into_iter().filter(uses).collect()
    }
}

impl Service {
    /// Asks the guard before anything of a request is worked on; nothing where policy has it off.
    pub(super) fn pass(
        &self,
        caller: &Caller,
        granted: &Granted,
        (options, prefill): (&Options, bool),
        width: usize,
    ) -> Result<Option<Passed>, ApiError> {
        let bundle = self.access.bundle();
        let policy = bundle.document().guard();
        if policy.mode == GuardMode::Off {
            return Ok(None);
        }
        let (principal, team) = (granted.principal(), granted.team());
        let now = now().secs();
        if policy.mode == GuardMode::On && !self.sentry.writes(now) {
            return Err(ApiError::GuardUnwritten);
        }
        let standing = self.sentry.standing(policy.mode, principal);
        let attested = caller.session.attested_at().secs();
        let asked = Asked {
            options: options.options_of_the_ladder(prefill),
            fresh_evidence: caller.session.client_machine().is_some() && attested >= standing.since,
        };
        let terms = policy.terms(team);
        let conditions = policy
            .withhold
            .apply(standing.step, &asked)
            .map_err(|refusal| {
                self.sentry.knock(principal, team, terms, now);
                refused(refusal, &standing)
            })?;
        let model = (granted.model().digest(), width);
        let accounts = policy.accounts(principal, team, model);
        let wants = Wants {
            told: options.logprobs.is_some(),
            arranged: arranges(&options.sampling),
        };
        self.sentry.room(&accounts, wants).map_err(|error| {
            self.sentry.refused(principal, now);
            spent(error)
        })?;
        Ok(Some(Passed {
            bundle: Arc::clone(&bundle),
            standing,
            conditions,
            accounts,
            terms,
        }))
    }

    /// How the prompt of a request is to be read.
    pub(super) fn glance(&self, passed: &Passed, granted: &Granted) -> Glance {
        let policy = passed.policy();
        let mut workloads = policy.workloads_of(granted.principal(), granted.team(), now());
        Glance {
            reader: self.sentry.reader(),
            compares: workloads.next().is_some(),
        }
    }

    /// What is to be watched of an answer. A prompt of a declared workload, within its rate, is not looked at; policy must
    /// permit the caller to have one.
    pub(super) async fn watched(
        &self,
        passed: Passed,
        caller: &Caller,
        granted: &Granted,
        read: Read,
    ) -> Result<Watched, ApiError> {
        let declared = match &read.wording {
            Some(wording) => self.declared(&passed, caller, granted, wording).await?,
            None => false,
        };
        Ok(Watched {
            accounts: passed.accounts,
            terms: passed.terms,
            prompt: (!declared).then_some((read.prompt, read.kept)),
            spent: false,
        })
    }

    async fn declared(
        &self,
        passed: &Passed,
        caller: &Caller,
        granted: &Granted,
        wording: &Wording,
    ) -> Result<bool, ApiError> {
        let now = now();
        let policy = passed.policy();
        let mut all = policy.workloads_of(granted.principal(), granted.team(), now);
        let Some((name, workload)) = all.find(|(_, workload)| workload.template.is_in(wording))
        else {
            return Ok(false);
        };
        match self
            .decide(caller, Action::DeclareWorkload, granted.model())
            .await
        {
            Ok(_) => Ok(self.sentry.declared(name, workload, now.secs())),
            // Without the right to declare, it is a prompt like others.
            Err(ApiError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the caller is an officer of the guard: named by policy, and permitted for every model that is served here.
    pub(super) async fn officer(&self, caller: &Caller) -> Result<Arc<PolicyBundle>, ApiError> {
        let bundle = self.access.bundle();
        let principal = caller.connection.principal();
        let served: Vec<ModelRef> = bundle
            .models()
            .filter(|model| self.queue.model(&model.digest()).is_some())
            .collect();
        for model in &served {
            self.decide(caller, Action::Oversee, model).await?;
        }
        if served.is_empty() || !bundle.document().guard().officers.contains(principal) {
            let reason = format!("{principal} is not among the guard's officers");
            return Err(ApiError::Denied {
                reason,
                param: None,
            });
        }
        Ok(bundle)
    }
}

impl Passed {
    fn policy(&self) -> &GuardPolicy {
        self.bundle.document().guard()
    }

    /// Tokens that an answer may have beside its prompt, or the error that names what does not fit.
    pub(super) fn answer_tokens(
        &self,
        prompt: usize,
        wanted: usize,
        param: &'static str,
    ) -> Result<usize, ApiError> {
        let as_size = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
        let mut answer = wanted;
        if let Some(window) = self.conditions.window_tokens_max.map(as_size) {
            if prompt >= window {
                return Err(ApiError::GuardWindow {
                    window,
                    param,
                    reference: self.standing.reference.clone(),
                });
            }
            answer = answer.min(window.saturating_sub(prompt));
        }
        Ok(answer.min(self.conditions.output_tokens_max.map_or(answer, as_size)))
    }
}

fn refused(refusal: Refusal, standing: &Standing) -> ApiError {
    let reference = standing.reference.clone();
    match refusal {
        Refusal::Withheld(option) => ApiError::GuardWithheld {
            param: option.param(),
            reference,
        },
        Refusal::StepUp => ApiError::GuardStepUp { reference },
        Refusal::Closed => ApiError::GuardClosed { reference },
    }
}

fn spent(error: MeterError) -> ApiError {
    match error {
        MeterError::Spent(holder) => ApiError::GuardSpent {
            whose: holder.spoken(),
        },
        _ => ApiError::GuardUnwritten,
    }
}

/// One answer's way past the guard.
pub(super) struct Watched {
    accounts: Accounts,
    terms: Terms,
    /// What is looked at when the answer ends; nothing of a declared workload.
    prompt: Option<(Prompt, Vec<Sealed>)>,
    /// Whether the last of a budget was given.
    pub(super) spent: bool,
}

impl Watched {
    /// Charges tokens, what they tell, and the probabilities told beside them.
    pub(super) fn charge(
        &mut self,
        service: &Service,
        (tokens, learnt): (u64, Learnt),
        told: &[TokenLogprobs],
    ) {
        let numbers = told.iter().map(told_numbers).sum();
        let tally = Tally::of_tokens(tokens, learnt).telling(told.len(), numbers);
        if service.sentry.charge(&self.accounts, tally).is_err() {
            self.spent = true;
        }
    }

    /// Looks at the prompt of an answer that ended, if anything was answered.
    pub(super) fn end(
        &mut self,
        service: &Service,
        granted: &Granted,
        (prompt_tokens, answer_tokens): (u64, u64),
    ) {
        if answer_tokens > 0 {
            let tokens = prompt_tokens.saturating_add(answer_tokens);
            let now = now().secs();
            service.sentry.answered(granted.principal(), tokens, now);
        }
        let Some((prompt, wording)) = self.prompt.take().filter(|_| answer_tokens > 0) else {
            return;
        };
        service.sentry.observe(Seen {
            wording,
            principal: granted.principal().clone(),
            team: granted.team().clone(),
            prompt,
            terms: self.terms,
            now: now().secs(),
        });
    }
}

/// Numbers that are told of one place: the likeliest tokens', and the token's own where it is not among them.
fn told_numbers(one: &TokenLogprobs) -> usize {
    let among = one.top.iter().any(|(token, _)| *token == one.token);
    let own = one.logprob.is_some() && !among;
    one.top.len().saturating_add(usize::from(own))
}
