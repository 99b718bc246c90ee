//! The generating endpoints: decide, encode, admit, start. What runs then is [`super::answering`]'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_models::engine::MarkKey;
use casemate_models::grammar::{Grammar, Shape};
use http::Response;
use tokio::time::sleep;

use super::access::Caller;
use super::answering::{Answering, READER_GONE, stream, whole};
use super::body::Answer;
use super::guarding::{Glance, Read, Watched, begins_the_answer, last_turn};
use super::outgoing::{Outgoing, Said};
use super::pace::Pace;
use super::sse::{Endpoint, Head};
use super::wire::{ChatRequest, CompletionRequest, Message, Options};
use super::{ApiError, Service, cells};
use crate::guard::keep::Keeper;
use crate::policy::{Action, Granted, Slot};
use crate::queue::{Generator, Job, Prompt, PromptError, StartError, Weighing};
use crate::session::now;

/// Tokens of a plain completion that names no number: OpenAI's default.
const COMPLETION_TOKENS_DEFAULT: usize = 16;

impl Options {
    /// What policy is asked beside the action itself, and the parameters that ask for it.
    fn grants(&self) -> impl Iterator<Item = (Action, &'static str)> {
        [
            (self.seed.is_some(), Action::UseSeed, "seed"),
            (self.logprobs.is_some(), Action::UseLogprobs, "logprobs"),
            (
                !self.sampling.logit_bias.is_empty(),
                Action::UseLogitBias,
                "logit_bias",
            ),
        ]
        .into_iter()
        .filter(|(asked, ..)| *asked)
        .map(|(_, action, param)| (action, param))
    }
}

/// What is to be continued.
pub(super) enum Source {
    Chat(Vec<Message>),
    Text(String),
}

impl Source {
    fn last_turn(&self) -> &str {
        match self {
            Self::Chat(messages) => last_turn(messages),
            Self::Text(text) => text,
        }
    }

    fn begins_the_answer(&self) -> bool {
        matches!(self, Self::Chat(messages) if begins_the_answer(messages))
    }
}

impl Endpoint {
    /// What policy is asked.
    const fn action(self) -> Action {
        match self {
            Self::Chat => Action::Chat,
            Self::Completion => Action::Complete,
        }
    }

    /// The parameter that holds the prompt.
    const fn prompt_param(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completion => "prompt",
        }
    }

    const fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Completion => "cmpl",
        }
    }
}

/// Answers a chat request.
///
/// # Errors
/// [`ApiError`].
pub async fn chat(
    service: &Arc<Service>,
    caller: Caller,
    request: ChatRequest,
    pace: Option<&Arc<Pace>>,
) -> Result<Response<Answer>, ApiError> {
    let ChatRequest { messages, options } = request;
    let source = Source::Chat(messages);
    generate(service, caller, (Endpoint::Chat, pace), source, options).await
}

/// Answers a request for a plain completion.
///
/// # Errors
/// [`ApiError`].
pub async fn complete(
    service: &Arc<Service>,
    caller: Caller,
    request: CompletionRequest,
    pace: Option<&Arc<Pace>>,
) -> Result<Response<Answer>, ApiError> {
    let CompletionRequest { prompt, options } = request;
    let source = Source::Text(prompt);
    generate(
        service,
        caller,
        (Endpoint::Completion, pace),
        source,
        options,
    )
    .await
}

async fn generate(
    service: &Arc<Service>,
    caller: Caller,
    (endpoint, pace): (Endpoint, Option<&Arc<Pace>>),
    mut source: Source,
    options: Options,
) -> Result<Response<Answer>, ApiError> {
    let (reference, model) = service.served(&options.model)?;
    let granted = service
        .decide(&caller, endpoint.action(), &reference)
        .await?;
    for (action, param) in options.grants() {
        let decided = service.decide(&caller, action, &reference).await;
        decided.map_err(|error| error.about(param))?;
    }
    let asked = (&options, source.begins_the_answer());
    let passed = service.pass(&caller, &granted, asked, model.width())?;
    let mut outgoing = Outgoing::new(service, &granted, &*model, endpoint, &options)?;
    if let Some(passed) = &passed {
        sleep(Duration::from_millis(
            passed.conditions.wait_milliseconds.into(),
        ))
        .await;
    }
    let glance = passed
        .as_ref()
        .map(|passed| service.glance(passed, &granted));
    let kept = outgoing.keeper(service, &granted, &mut source)?;
    let sources = (outgoing.harmless(&source), source);
    let Encoded {
        prompt,
        read,
        harmless,
    } = encode(service, &model, sources, (endpoint, glance)).await?;
    let limit = service.limits.prompt_tokens_max;
    let prompt_tokens = prompt.0.len();
    if prompt_tokens > limit {
        return Err(too_long(limit, prompt_tokens, 0, endpoint));
    }
    let mut wanted = answer_tokens(&options, prompt_tokens, model.context_tokens(), endpoint)?;
    if let Some(passed) = &passed {
        wanted = passed.answer_tokens(prompt_tokens, wanted, endpoint.prompt_param())?;
    }
    let slot = service
        .access
        .admit(&granted, prompt_tokens, wanted, now())?;
    let watched = match passed.zip(read) {
        Some((passed, read)) => Some(service.watched(passed, &caller, &granted, read).await?),
        None => None,
    };
    let seed = outgoing.seed(service, &granted, endpoint, &options, &prompt);
    let mark = outgoing.mark(&options)?;
    let weighing = harmless.map(|harmless| outgoing.weighing(harmless));
    let begun = Begun {
        caller,
        granted,
        prompt,
        slot,
        watched,
        wanted,
        outgoing,
        kept,
        seed,
        mark,
        weighing,
    };
    start(service, &model, begun, (endpoint, pace), options).await
}

/// A request that everybody has let through.
struct Begun {
    caller: Caller,
    granted: Granted,
    prompt: Prompt,
    slot: Slot,
    watched: Option<Watched>,
    wanted: usize,
    outgoing: Outgoing,
    kept: Keeper<Said>,
    seed: Option<u64>,
    mark: Option<MarkKey>,
    weighing: Option<Weighing>,
}

async fn start(
    service: &Arc<Service>,
    model: &Arc<dyn Generator>,
    begun: Begun,
    (endpoint, pace): (Endpoint, Option<&Arc<Pace>>),
    options: Options,
) -> Result<Response<Answer>, ApiError> {
    let tokens_max = usize::try_from(begun.slot.output_tokens_max())
        .unwrap_or(begun.wanted)
        .min(begun.wanted);
    let grammar = match options.shape {
        Some(shape) => Some(Box::new(compile(service, model, shape).await?)),
        None => None,
    };
    let prompt_tokens = begun.prompt.0.len() as u64;
    let job = Job {
        tenant: begun.granted.team().clone(),
        share: begun.granted.limits().share,
        prompt: begun.prompt,
        tokens_max,
        sampling: options.sampling,
        grammar,
        stop: options.stop,
        seed: begun.seed,
        logprobs: begun.outgoing.reveal,
        mark: begun.mark,
        repetition: begun.outgoing.repetition(),
        deadline: Instant::now() + Duration::from_secs(service.limits.answer_s_max),
    };
    let running = service
        .queue
        .start(model, job, begun.weighing)
        .map_err(|error| match error {
            StartError::Full => ApiError::Busy,
            StartError::UnknownToken => ApiError::Invalid {
                param: "logit_bias".into(),
                expected: "about tokens that the model has".into(),
            },
            StartError::Refused => ApiError::Internal,
        })?;
    let head = Head {
        endpoint,
        id: format!("{}-{}", endpoint.id_prefix(), service.fresh_id()?),
        created: now().secs(),
        model: options.model,
    };
    let answering = Answering {
        service: Arc::clone(service),
        caller: begun.caller,
        granted: begun.granted,
        running,
        slot: begun.slot,
        prompt_tokens,
        answer_tokens: 0,
        watched: begun.watched,
        logprobs: options.logprobs.is_some(),
        kept: begun.kept,
        trace: begun.outgoing.trace,
        ending: None,
        ended: READER_GONE,
    };
    match (pace, options.stream) {
        (None, true) => Ok(stream(answering, head, options.include_usage)),
        (None, false) => whole(answering, &head).await,
        (Some(pace), true) => Ok(cells::stream(answering, head, options.include_usage, pace).await),
        (Some(pace), false) => cells::whole(answering, &head, pace).await,
    }
}

/// What a conversation or a text becomes.
struct Encoded {
    prompt: Prompt,
    /// What the guard reads of it.
    read: Option<Read>,
    /// The prompt without its secret, where answers are weighed against it.
    harmless: Option<Prompt>,
}

async fn encode(
    service: &Service,
    model: &Arc<dyn Generator>,
    (harmless, source): (Option<Source>, Source),
    (endpoint, glance): (Endpoint, Option<Glance>),
) -> Result<Encoded, ApiError> {
    // Long prompts take a while: off the threads that serve others, and few at once.
    let _turn = service
        .encoders
        .acquire()
        .await
        .map_err(|_| ApiError::Stopping)?;
    let model = Arc::clone(model);
    let encoded = tokio::task::spawn_blocking(move || {
        let read = glance.map(|glance| glance.read(source.last_turn()));
        let encoded = |source: Source| match source {
            Source::Chat(messages) => model.encode_chat(&messages),
            Source::Text(text) => model.encode_text(&text),
        };
        Ok(Encoded {
            prompt: encoded(source)?,
            read,
            harmless: harmless.map(encoded).transpose()?,
        })
    });
    let refused = |error: &PromptError| ApiError::Invalid {
        param: endpoint.prompt_param().to_owned(),
        expected: format!("a prompt that the model can take: {error}"),
    };
    match encoded.await {
        Ok(Ok(encoded)) if encoded.prompt.0.is_empty() => Err(refused(&PromptError::Empty)),
        Ok(Ok(encoded)) => Ok(encoded),
        Ok(Err(error)) => Err(refused(&error)),
        Err(_) => Err(ApiError::Internal),
    }
}

/// The grammar of an answer of this shape. The caller has a place and tokens set aside by now: who asks for much waits.
async fn compile(
    service: &Service,
    model: &Arc<dyn Generator>,
    shape: Shape,
) -> Result<Grammar, ApiError> {
    let _turn = service
        .encoders
        .acquire()
        .await
        .map_err(|_| ApiError::Stopping)?;
    let model = Arc::clone(model);
    let compiled = tokio::task::spawn_blocking(move || model.grammar(&shape));
    match compiled.await {
        Ok(compiled) => compiled.map_err(|reason| ApiError::Schema { reason }),
        Err(_) => Err(ApiError::Internal),
    }
}

/// Tokens that the answer may have, or the error that names what does not fit.
fn answer_tokens(
    options: &Options,
    prompt: usize,
    context: usize,
    endpoint: Endpoint,
) -> Result<usize, ApiError> {
    let left = context.saturating_sub(prompt);
    let answer = match options.tokens_max {
        Some(wanted) => usize::try_from(wanted).unwrap_or(usize::MAX),
        None if endpoint == Endpoint::Completion => left.clamp(1, COMPLETION_TOKENS_DEFAULT),
        None => left.max(1),
    };
    if answer > left {
        return Err(too_long(context, prompt, answer, endpoint));
    }
    Ok(answer)
}

fn too_long(context: usize, prompt: usize, answer: usize, endpoint: Endpoint) -> ApiError {
    ApiError::ContextLength {
        context,
        prompt,
        answer,
        param: endpoint.prompt_param(),
    }
}
