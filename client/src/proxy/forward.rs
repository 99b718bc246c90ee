//! One request: checked, stripped, sent on over the attested connection, and its answer handed back as it comes.
//!
//! Nothing is collected on the way but a request that is filled up ([`super::padding`]). An answer that is cut off is cut off here too (attack S1), and a caller that goes away
//! takes its request with it, because its answer's body is dropped.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};

use super::error::Refusal;
use super::filler::Unfilled;
use super::upload::{Upload, UploadFault};
use super::{guard, padding};
use crate::config::Limits;
use crate::session::{BodyError, Keeper, RequestBody, full_body};

/// What goes back to the caller.
pub(super) type ProxyBody = UnsyncBoxBody<Bytes, BodyError>;

/// An answer that is at hand.
pub(super) fn whole_body(bytes: Bytes) -> ProxyBody {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Answers one local request.
pub(super) async fn answer(
    request: Request<Incoming>,
    keeper: &Arc<Keeper>,
    limits: &Limits,
) -> Response<ProxyBody> {
    match forward(request, keeper, limits).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(),
    }
}

async fn forward(
    request: Request<Incoming>,
    keeper: &Arc<Keeper>,
    limits: &Limits,
) -> Result<Response<ProxyBody>, Refusal> {
    let (mut head, body) = request.into_parts();
    guard::check(&head)?;
    let limit = limits.body_bytes_max;
    if body.size_hint().lower() > limit {
        return Err(Refusal::BodyTooLong(limit));
    }
    let (upload, fault) = upload(&mut head, body, keeper, limit).await?;
    let connection = keeper
        .acquire()
        .await
        .map_err(|e| Refusal::from(e.as_ref()))?;
    guard::strip_hop(&mut head.headers);
    guard::strip_private(&mut head.headers);
    head.version = Version::default();
    let sent = connection
        .send_request(Request::from_parts(head, upload))
        .await;
    let response = match (sent, fault.get()) {
        (Ok(response), _) => response,
        (Err(_), Some(UploadFault::TooLong)) => return Err(Refusal::BodyTooLong(limit)),
        (Err(_), Some(UploadFault::BrokeOff)) => return Err(Refusal::BodyBroken),
        (Err(error), None) => {
            keeper.drop_connection(&connection).await;
            return Err(Refusal::from(&error));
        }
    };
    if response.status() == StatusCode::MISDIRECTED_REQUEST {
        // Rule P-40: the server holds the session for over, for instance because another policy came into force.
        keeper.drop_connection(&connection).await;
        return Err(Refusal::stale());
    }
    let (mut head, body) = response.into_parts();
    guard::strip_hop(&mut head.headers);
    guard::strip_private(&mut head.headers);
    head.headers.remove(header::SET_COOKIE);
    head.version = Version::default();
    let body = Unfilled::new(&mut head.headers, body);
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

/// The body as it goes to the server, and what will have been wrong with it.
async fn upload(
    head: &mut Parts,
    body: Incoming,
    keeper: &Keeper,
    limit: u64,
) -> Result<(RequestBody, Arc<OnceLock<UploadFault>>), Refusal> {
    if keeper.connector().pads_requests() && padding::is_for(head, &body) {
        let padded = padding::padded(head, body).await?;
        return Ok((full_body(padded), Arc::default()));
    }
    let (upload, fault) = Upload::new(body, limit);
    Ok((upload.map_err(Into::into).boxed_unsync(), fault))
}
