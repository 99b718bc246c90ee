//! Bodies: requests are read whole, within bounds of size and time; answers are whole or a stream. A stream that fails ends
//! with an error and not with an end, so that the peer sees that something is missing (S1).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::ApiError;

/// The stream was cut off on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off")]
pub struct CutOff;

/// A part of a stream.
#[derive(Debug)]
pub enum Piece {
    /// More of it.
    Data(Bytes),
    /// The last of it: nothing is missing. Its end leaves with it and not after it.
    Last(Bytes),
    /// Nothing is missing.
    End,
}

/// Body of an answer.
#[derive(Debug)]
pub enum Answer {
    /// All of it.
    Whole(Option<Bytes>),
    /// Piece by piece. Where the pieces end without a [`Piece::End`] or [`Piece::Last`], for whatever reason, the connection is cut (HTTP/1.1)
    /// or the stream is reset (HTTP/2).
    Stream(mpsc::Receiver<Piece>),
}

impl Answer {
    /// A body that is there already.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(pieces) => {
                let piece = std::task::ready!(pieces.poll_recv(cx));
                Poll::Ready(match piece {
                    Some(Piece::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                    Some(Piece::Last(bytes)) => {
                        *self = Self::Whole(None);
                        Some(Ok(Frame::data(bytes)))
                    }
                    Some(Piece::End) => None,
                    None => Some(Err(CutOff)),
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// Reads a whole request body of at most `bytes_max` bytes within `limit_s` seconds.
///
/// # Errors
/// [`ApiError::TooLarge`], [`ApiError::TooSlow`], [`ApiError::Incomplete`].
pub async fn read(body: Incoming, bytes_max: usize, limit_s: u64) -> Result<Bytes, ApiError> {
    // A length announced beyond the limit is refused before a byte of it is read.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(ApiError::TooLarge { limit: bytes_max });
    }
    let collected = Limited::new(body, bytes_max).collect();
    match timeout(Duration::from_secs(limit_s), collected).await {
        Err(_) => Err(ApiError::TooSlow { limit_s }),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::TooLarge { limit: bytes_max })
        }
        Ok(Err(_)) => Err(ApiError::Incomplete),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}
