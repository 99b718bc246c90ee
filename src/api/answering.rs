//! An answer under way: whole or as a stream. The session's deadline is compared with the clock again for as long as it
//! takes (A9); a stream that cannot be completed ends with an error, never with an end (S1).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use casemate_models::engine::Learnt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};

use super::access::Caller;
use super::body::{Answer, Piece};
use super::guarding::Watched;
use super::outgoing::{Said, Trace};
use super::sse::{DONE, Head, Usage, event};
use super::{ApiError, Service};
use crate::audit::{AuditEvent, SessionId, band};
use crate::guard::keep::{Keeper, Leaked};
use crate::policy::{Granted, Slot};
use crate::queue::{Event, Finish, Running, TokenLogprobs};
use crate::session::now;

/// How often a silent answer compares its session's deadline.
const DEADLINE_CHECK: Duration = Duration::from_millis(500);
/// How long the error at the end of a stream has to leave before the stream is cut: when a body fails, the HTTP library
/// forgets what it has not written yet.
pub(super) const LAST_WORD: Duration = Duration::from_millis(200);

/// One answer under way, with everything that it holds. Dropping it frees place and tokens, stops the model, and records
/// how it ended.
pub(super) struct Answering {
    pub(super) service: Arc<Service>,
    pub(super) caller: Caller,
    pub(super) granted: Granted,
    pub(super) running: Running,
    pub(super) slot: Slot,
    pub(super) prompt_tokens: u64,
    pub(super) answer_tokens: u64,
    /// What the guard counts of it; nothing where policy has it off.
    pub(super) watched: Option<Watched>,
    /// Whether probabilities are told.
    pub(super) logprobs: bool,
    /// The way out of its text.
    pub(super) kept: Keeper<Said>,
    /// What the audit log says of it.
    pub(super) trace: Trace,
    /// Its end, while text that was held back goes out before it.
    pub(super) ending: Option<Finish>,
    /// How it ended, as the audit log says it.
    pub(super) ended: &'static str,
}

/// What [`Answering::ended`] is until something else is known: nobody waited for the end.
pub(super) const READER_GONE: &str = "reader_gone";

/// One step of an answer.
pub(super) enum Step {
    Text(String, Vec<TokenLogprobs>),
    End(Finish),
}

impl Answering {
    /// Waits for the next text, comparing the session's deadline before each.
    pub(super) async fn next(&mut self) -> Result<Step, ApiError> {
        let step = self.next_step().await;
        self.ended = match &step {
            Ok(Step::Text(..)) => READER_GONE,
            Ok(Step::End(finish)) => finish.reason(),
            Err(error) => error.code(),
        };
        step
    }

    async fn next_step(&mut self) -> Result<Step, ApiError> {
        if let Some(finish) = self.ending.take() {
            return Ok(Step::End(finish));
        }
        if self.watched.as_ref().is_some_and(|watched| watched.spent) {
            return Ok(self.finish(Finish::Length));
        }
        let mut check = interval(DEADLINE_CHECK);
        loop {
            let event = tokio::select! {
                event = self.running.events.next() => event,
                _ = check.tick() => {
                    self.still_attested()?;
                    continue;
                }
            };
            self.still_attested()?;
            return match event {
                Some(Event::Text {
                    text,
                    tokens,
                    learnt,
                    logprobs,
                }) => {
                    self.count(tokens.len() as u64, learnt, &logprobs);
                    match self.kept.push(Said { text, logprobs }) {
                        Ok(pieces) if pieces.is_empty() => {
                            if self.watched.as_ref().is_some_and(|watched| watched.spent) {
                                return Ok(self.finish(Finish::Length));
                            }
                            continue;
                        }
                        Ok(pieces) => Ok(joined(pieces)),
                        // Nothing of what was held back goes out.
                        Err(_) => Ok(Step::End(Finish::Withheld)),
                    }
                }
                Some(Event::End {
                    finish,
                    repeated,
                    telling,
                    tokens,
                    learnt,
                }) => {
                    self.count(tokens.saturating_sub(self.answer_tokens), learnt, &[]);
                    if repeated {
                        self.trace.noted.push("repetition");
                    }
                    if telling {
                        self.trace.noted.push("prompt_likely");
                    }
                    Ok(self.finish(finish))
                }
                Some(Event::TimedOut) => Err(ApiError::AnswerTooSlow {
                    limit_s: self.service.limits.answer_s_max,
                }),
                Some(Event::Stuck) => Err(ApiError::AnswerStuck),
                Some(Event::Failed) | None => Err(ApiError::Internal),
            };
        }
    }

    /// The end, or what was held back before it.
    fn finish(&mut self, finish: Finish) -> Step {
        let pieces = self.kept.finish();
        if pieces.is_empty() {
            return Step::End(finish);
        }
        self.ending = Some(finish);
        joined(pieces)
    }

    fn count(&mut self, tokens: u64, learnt: Learnt, told: &[TokenLogprobs]) {
        self.answer_tokens = self.answer_tokens.saturating_add(tokens);
        self.slot.count(tokens);
        if let Some(watched) = &mut self.watched {
            watched.charge(&self.service, (tokens, learnt), told);
        }
    }

    fn still_attested(&self) -> Result<(), ApiError> {
        let connection = &self.caller.connection;
        self.service.attestor.attested(connection, now())?;
        Ok(())
    }

    pub(super) fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.answer_tokens)
    }
}

/// Pieces as one.
fn joined(pieces: Vec<Said>) -> Step {
    let (mut text, mut told) = (String::new(), Vec::new());
    for piece in pieces {
        text.push_str(&piece.text);
        told.extend(piece.logprobs);
    }
    Step::Text(text, told)
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(watched) = &mut self.watched {
            let tokens = (self.prompt_tokens, self.answer_tokens);
            watched.end(&self.service, &self.granted, tokens);
        }
        let mut noted = std::mem::take(&mut self.trace.noted);
        noted.extend(self.kept.found().map(Leaked::as_str));
        let event = AuditEvent::Answer {
            session: SessionId(self.caller.session.id()),
            principal: self.granted.principal().clone(),
            team: self.granted.team().clone(),
            model: self.granted.model().digest(),
            prompt_tokens_band: band(self.prompt_tokens),
            output_tokens_band: band(self.answer_tokens),
            reason: self.ended,
            mark_epoch: self.trace.mark_epoch,
            noted,
        };
        self.service.audit.note(now(), event);
    }
}

/// Collects the whole answer.
pub(super) async fn whole(
    mut answering: Answering,
    head: &Head,
) -> Result<Response<Answer>, ApiError> {
    let (mut text, mut told) = (String::new(), Vec::new());
    let finish = loop {
        match answering.next().await? {
            Step::Text(piece, logprobs) => {
                text.push_str(&piece);
                told.extend(logprobs);
            }
            Step::End(finish) => break finish,
        }
    };
    let told = answering.logprobs.then_some(&*told);
    let usage = answering.usage();
    Ok(json_answer(head.whole(&text, told, finish, usage)))
}

/// A JSON document as an answer.
pub(super) fn json_answer(document: Bytes) -> Response<Answer> {
    let mut answer = Response::new(Answer::whole(document));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Sends the answer piece by piece; with `usage` the token counts come last.
pub(super) fn stream(answering: Answering, head: Head, usage: bool) -> Response<Answer> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let limit_s = answering.service.limits.reader_s_max;
        let pipe = Pipe { sender, limit_s };
        // A pipe that is dropped without an end, be it by a panic, is a cut for the peer.
        if let Err(Some(error)) = pump(answering, &head, usage, &pipe).await {
            pipe.last_word(&error).await;
        }
    });
    event_stream(receiver)
}

/// A stream of server-sent events.
pub(super) fn event_stream(pieces: mpsc::Receiver<Piece>) -> Response<Answer> {
    let mut answer = Response::new(Answer::Stream(pieces));
    let headers = answer.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The way to one reader.
pub(super) struct Pipe {
    pub(super) sender: mpsc::Sender<Piece>,
    pub(super) limit_s: u64,
}

impl Pipe {
    /// Sends more of the answer; `None` when nobody reads any more.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Option<ApiError>> {
        self.put(Piece::Data(bytes)).await
    }

    pub(super) async fn put(&self, piece: Piece) -> Result<(), Option<ApiError>> {
        let limit_s = self.limit_s;
        match timeout(Duration::from_secs(limit_s), self.sender.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(None),
            Err(_) => Err(Some(ApiError::ReaderTooSlow { limit_s })),
        }
    }

    /// Says what went wrong, if the reader still takes it; the cut comes when the pipe is dropped.
    async fn last_word(&self, error: &ApiError) {
        let document = String::from_utf8_lossy(&error.to_json()).into_owned();
        let said = self.sender.send(Piece::Data(event(&document)));
        if let Ok(Ok(())) = timeout(Duration::from_secs(1), said).await {
            sleep(LAST_WORD).await;
        }
    }
}

async fn pump(
    mut answering: Answering,
    head: &Head,
    usage: bool,
    pipe: &Pipe,
) -> Result<(), Option<ApiError>> {
    let pumped = pump_all(&mut answering, head, usage, pipe).await;
    if let Err(Some(error)) = &pumped {
        answering.ended = error.code();
    }
    pumped
}

async fn pump_all(
    answering: &mut Answering,
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
            Step::Text(text, told) => {
                let told = answering.logprobs.then_some(&*told);
                pipe.send(head.piece(&text, told, usage)).await?;
            }
            Step::End(finish) => {
                pipe.send(head.closing(finish, usage)).await?;
                break;
            }
        }
    }
    if usage {
        pipe.send(head.counts(answering.usage())).await?;
    }
    pipe.send(DONE).await?;
    pipe.put(Piece::End).await
}
