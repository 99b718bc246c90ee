//! The generating endpoints: decide, encode, admit, run, answer. The session's deadline is compared with the clock again
//! for as long as an answer takes (A9); a stream that cannot be completed ends with an error, never with an end (S1).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

use super::access::Caller;
use super::body::{Answer, CutOff};
use super::sse::{DONE, Endpoint, Head, Usage, event};
use super::stop::StopWatch;
use super::wire::{ChatRequest, CompletionRequest, Message, Options};
use super::{ApiError, Service};
use crate::policy::{Action, Slot};
use crate::queue::{Event, Finish, Generator, Job, Prompt, PromptError, Running};
use crate::session::now;

/// How often a silent answer compares its session's deadline.
const DEADLINE_CHECK: Duration = Duration::from_millis(500);

/// What is to be continued.
enum Source {
    Chat(Vec<Message>),
    Text(String),
}

/// Answers a chat request.
///
/// # Errors
/// [`ApiError`].
pub async fn chat(
    service: &Arc<Service>,
    caller: Caller,
    request: ChatRequest,
) -> Result<Response<Answer>, ApiError> {
    let ChatRequest { messages, options } = request;
    generate(
        service,
        caller,
        Endpoint::Chat,
        Source::Chat(messages),
        options,
    )
    .await
}

/// Answers a request for a plain completion.
///
/// # Errors
/// [`ApiError`].
pub async fn complete(
    service: &Arc<Service>,
    caller: Caller,
    request: CompletionRequest,
) -> Result<Response<Answer>, ApiError> {
    let CompletionRequest { prompt, options } = request;
    generate(
        service,
        caller,
        Endpoint::Completion,
        Source::Text(prompt),
        options,
    )
    .await
}

async fn generate(
    service: &Arc<Service>,
    caller: Caller,
    endpoint: Endpoint,
    source: Source,
    options: Options,
) -> Result<Response<Answer>, ApiError> {
    let (reference, model) = service.served(&options.model)?;
    let action = match endpoint {
        Endpoint::Chat => Action::Chat,
        Endpoint::Completion => Action::Complete,
    };
    let granted = service.decide(&caller, action, &reference)?;
    if options.seed.is_some() {
        service.decide(&caller, Action::UseSeed, &reference)?;
    }
    let prompt = encode(service, &model, source).await?;
    let prompt_tokens = prompt.0.len();
    let wanted = answer_tokens(&options, prompt_tokens, model.context_tokens(), endpoint)?;
    let slot = service
        .access
        .admit(&granted, prompt_tokens, wanted, now())?;
    let tokens_max = usize::try_from(slot.output_tokens_max())
        .unwrap_or(wanted)
        .min(wanted);
    let job = Job {
        prompt,
        tokens_max,
        temperature: options.temperature.unwrap_or(1.0),
        top_p: options.top_p.unwrap_or(1.0),
        seed: options.seed,
    };
    let running = service
        .queue
        .start(&model, job)
        .map_err(|_| ApiError::Busy)?;
    let prefix = if endpoint == Endpoint::Chat {
        "chatcmpl"
    } else {
        "cmpl"
    };
    let head = Head {
        endpoint,
        id: format!("{prefix}-{}", service.fresh_id()?),
        created: now().secs(),
        model: options.model,
    };
    let answering = Answering {
        service: Arc::clone(service),
        caller,
        running,
        slot,
        stops: StopWatch::new(options.stop),
        prompt_tokens: prompt_tokens as u64,
        answer_tokens: 0,
    };
    if options.stream {
        Ok(stream(answering, head, options.include_usage))
    } else {
        whole(answering, &head).await
    }
}

async fn encode(
    service: &Service,
    model: &Arc<dyn Generator>,
    source: Source,
) -> Result<Prompt, ApiError> {
    // Long prompts take a while: off the threads that serve others, and few at once.
    let _turn = service
        .encoders
        .acquire()
        .await
        .map_err(|_| ApiError::Stopping)?;
    let model = Arc::clone(model);
    let param = if matches!(source, Source::Chat(_)) {
        "messages"
    } else {
        "prompt"
    };
    let encoded = tokio::task::spawn_blocking(move || match source {
        Source::Chat(messages) => model.encode_chat(&messages),
        Source::Text(text) => model.encode_text(&text),
    });
    match encoded.await {
        Ok(Ok(prompt)) if prompt.0.is_empty() => Err(refused(&PromptError::Empty, param)),
        Ok(Ok(prompt)) => Ok(prompt),
        Ok(Err(error)) => Err(refused(&error, param)),
        Err(_) => Err(ApiError::Internal),
    }
}

fn refused(error: &PromptError, param: &str) -> ApiError {
    let expected = format!("a prompt that the model can take: {error}");
    ApiError::Invalid {
        param: param.to_owned(),
        expected,
    }
}

/// Tokens that the answer may have, or the error that names what does not fit.
fn answer_tokens(
    options: &Options,
    prompt: usize,
    context: usize,
    endpoint: Endpoint,
) -> Result<usize, ApiError> {
    let param = if endpoint == Endpoint::Chat {
        "messages"
    } else {
        "prompt"
    };
    let left = context.saturating_sub(prompt);
    let answer = match options.tokens_max {
        Some(wanted) => usize::try_from(wanted).unwrap_or(usize::MAX),
        None if endpoint == Endpoint::Completion => left.clamp(1, 16),
        None => left.max(1),
    };
    if answer > left {
        return Err(ApiError::ContextLength {
            context,
            prompt,
            answer,
            param,
        });
    }
    Ok(answer)
}

/// One answer under way, with everything that it holds. Dropping it frees place and tokens and stops the model.
struct Answering {
    service: Arc<Service>,
    caller: Caller,
    running: Running,
    slot: Slot,
    stops: StopWatch,
    prompt_tokens: u64,
    answer_tokens: u64,
}

/// One step of an answer.
enum Step {
    Text(String),
    End(String, Finish),
}

impl Answering {
    /// Waits for the next text, comparing the session's deadline before each.
    async fn next(&mut self) -> Result<Step, ApiError> {
        let mut check = interval(DEADLINE_CHECK);
        loop {
            let event = tokio::select! {
                event = self.running.events.recv() => event,
                _ = check.tick() => {
                    self.still_attested()?;
                    continue;
                }
            };
            self.still_attested()?;
            match event {
                Some(Event::Token(text)) => {
                    self.answer_tokens = self.answer_tokens.saturating_add(1);
                    self.slot.count(1);
                    let text = self.stops.push(&text);
                    if self.stops.stopped() {
                        return Ok(Step::End(text, Finish::Stop));
                    }
                    if !text.is_empty() {
                        return Ok(Step::Text(text));
                    }
                }
                Some(Event::End(finish)) => return Ok(Step::End(self.stops.finish(), finish)),
                Some(Event::Failed) | None => return Err(ApiError::Internal),
            }
        }
    }

    fn still_attested(&self) -> Result<(), ApiError> {
        self.service
            .attestor
            .attested(&self.caller.connection, now())?;
        Ok(())
    }

    fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.answer_tokens)
    }
}

async fn whole(mut answering: Answering, head: &Head) -> Result<Response<Answer>, ApiError> {
    let mut text = String::new();
    let finish = loop {
        match answering.next().await? {
            Step::Text(piece) => text.push_str(&piece),
            Step::End(piece, finish) => {
                text.push_str(&piece);
                break finish;
            }
        }
    };
    Ok(json_answer(head.whole(&text, finish, answering.usage())))
}

/// A JSON document as an answer.
pub fn json_answer(document: Bytes) -> Response<Answer> {
    let mut answer = Response::new(Answer::whole(document));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn stream(answering: Answering, head: Head, usage: bool) -> Response<Answer> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let limit_s = answering.service.limits.reader_s_max;
        let pipe = Pipe { sender, limit_s };
        // A panic or a gone reader drops the pipe without an end, which the peer sees as a cut.
        if let Err(Some(error)) = pump(answering, &head, usage, &pipe).await {
            pipe.cut(&error).await;
        }
    });
    let mut answer = Response::new(Answer::Stream(receiver));
    let headers = answer.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The way to one reader.
struct Pipe {
    sender: mpsc::Sender<Result<Bytes, CutOff>>,
    limit_s: u64,
}

impl Pipe {
    /// Sends one piece; `None` when nobody reads any more.
    async fn send(&self, piece: Bytes) -> Result<(), Option<ApiError>> {
        let limit_s = self.limit_s;
        match timeout(Duration::from_secs(limit_s), self.sender.send(Ok(piece))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(None),
            Err(_) => Err(Some(ApiError::ReaderTooSlow { limit_s })),
        }
    }

    /// Says what went wrong, then cuts the stream so that nobody takes it for complete.
    async fn cut(&self, error: &ApiError) {
        let document = String::from_utf8_lossy(&error.to_json()).into_owned();
        let last = async {
            let _ = self.sender.send(Ok(event(&document))).await;
            let _ = self.sender.send(Err(CutOff)).await;
        };
        let _ = timeout(Duration::from_secs(1), last).await;
    }
}

async fn pump(
    mut answering: Answering,
    head: &Head,
    usage: bool,
    pipe: &Pipe,
) -> Result<(), Option<ApiError>> {
    if let Some(opening) = head.opening(usage) {
        pipe.send(opening).await?;
    }
    loop {
        let step = tokio::select! {
            step = answering.next() => step.map_err(Some)?,
            () = pipe.sender.closed() => return Err(None),
        };
        match step {
            Step::Text(text) => pipe.send(head.piece(&text, usage)).await?,
            Step::End(text, finish) => {
                if !text.is_empty() {
                    pipe.send(head.piece(&text, usage)).await?;
                }
                pipe.send(head.closing(finish, usage)).await?;
                break;
            }
        }
    }
    if usage {
        pipe.send(head.counts(answering.usage())).await?;
    }
    pipe.send(DONE).await
}
