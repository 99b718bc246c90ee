//! The caller's body on its way to the server: bounded, and it remembers whether it was the caller who broke it.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// What the caller did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UploadFault {
    /// More bytes than are allowed.
    #[error("request body is too long")]
    TooLong,
    /// The caller went away, or its framing is wrong.
    #[error("request body broke off")]
    BrokeOff,
}

/// A body with a bound.
pub(super) struct Upload {
    body: Incoming,
    left: u64,
    fault: Arc<OnceLock<UploadFault>>,
}

impl Upload {
    /// At most `limit` bytes of `body`; the second value says afterwards what went wrong, if anything did.
    pub(super) fn new(body: Incoming, limit: u64) -> (Self, Arc<OnceLock<UploadFault>>) {
        let fault = Arc::new(OnceLock::new());
        (
            Self {
                body,
                left: limit,
                fault: fault.clone(),
            },
            fault,
        )
    }

    fn fail(&self, fault: UploadFault) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        // Only the first fault counts.
        let _ = self.fault.set(fault);
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => Poll::Ready(None),
            Some(Err(_)) => self.fail(UploadFault::BrokeOff),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.remaining());
                match self
                    .left
                    .checked_sub(u64::try_from(length).unwrap_or(u64::MAX))
                {
                    Some(left) => {
                        self.left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => self.fail(UploadFault::TooLong),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
