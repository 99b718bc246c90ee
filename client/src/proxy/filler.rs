//! Takes out what a server puts into an answer for eavesdroppers only: comments between events, white space behind a
//! document. A program on this machine reads the answer as if there had been none.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use hyper::body::{Body, Frame, SizeHint};

use crate::session::{AnswerBody, BodyError};

/// How a server says that there is filler.
const CELLS_HEADER: &str = "x-casemate-cells";

/// What is taken out.
#[derive(Debug)]
enum Filler {
    /// Comment lines of server-sent events, each with the empty line behind it.
    Comments(Place),
    /// Spaces at the end. Those that came may stand before something else still.
    Spaces(usize),
}

/// Where in a stream of events the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    Line,
    Comment,
    AfterComment,
}

impl Filler {
    /// What of `bytes` is no filler.
    fn rest(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut rest = Vec::with_capacity(bytes.len());
        match self {
            Self::Spaces(held) => {
                for byte in bytes {
                    if *byte == b' ' {
                        *held = held.saturating_add(1);
                    } else {
                        rest.resize(rest.len().saturating_add(std::mem::take(held)), b' ');
                        rest.push(*byte);
                    }
                }
            }
            Self::Comments(place) => {
                for byte in bytes {
                    *place = match (*place, byte) {
                        (Place::Comment, b'\n') => Place::AfterComment,
                        (Place::Comment, _) => Place::Comment,
                        (Place::AfterComment, b'\n') => Place::LineStart,
                        (Place::LineStart | Place::AfterComment, b':') => Place::Comment,
                        (_, b'\n') => {
                            rest.push(b'\n');
                            Place::LineStart
                        }
                        (_, byte) => {
                            rest.push(*byte);
                            Place::Line
                        }
                    };
                }
            }
        }
        rest
    }
}

/// An answer's body without filler.
#[derive(Debug)]
pub(super) struct Unfilled {
    body: AnswerBody,
    filler: Option<Filler>,
}

impl Unfilled {
    /// Takes out of `body` what `headers` say is in it, and that they say so.
    pub(super) fn new(headers: &mut HeaderMap, body: AnswerBody) -> Self {
        let filler = headers.remove(CELLS_HEADER).map(|_| {
            let kind = headers.get(CONTENT_TYPE).map_or(&[][..], |k| k.as_bytes());
            match kind.starts_with(b"text/event-stream") {
                true => Filler::Comments(Place::LineStart),
                false => Filler::Spaces(0),
            }
        });
        Self { body, filler }
    }
}

impl Body for Unfilled {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            let (Some(filler), Some(Ok(frame))) = (&mut self.filler, &frame) else {
                return Poll::Ready(frame);
            };
            let Some(bytes) = frame.data_ref() else {
                continue;
            };
            let rest = filler.rest(bytes);
            if !rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(rest)))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.filler {
            None => self.body.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(new: impl Fn() -> Filler, text: &str) -> String {
        let whole = new().rest(text.as_bytes());
        for size in 1..8 {
            let mut filler = new();
            let pieces = text.as_bytes().chunks(size);
            let rest: Vec<u8> = pieces.flat_map(|piece| filler.rest(piece)).collect();
            assert_eq!(rest, whole, "in pieces of {size}");
        }
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn comments_go_and_events_stay_however_the_stream_is_cut() {
        let new = || Filler::Comments(Place::LineStart);
        for (stream, rest) in [
            (":\n\n", ""),
            (":   \n\ndata: a\n\n:\n\n", "data: a\n\n"),
            (
                "data: a: b\n\n:  \n\ndata: :c\n\n",
                "data: a: b\n\ndata: :c\n\n",
            ),
            ("data: a\n: x\ndata: b\n\n", "data: a\ndata: b\n\n"),
            (":\n\n:\n\n: \n\ndata: [DONE]\n\n", "data: [DONE]\n\n"),
        ] {
            assert_eq!(in_pieces(new, stream), rest, "{stream:?}");
        }
    }

    #[test]
    fn spaces_go_at_the_end_only() {
        let new = || Filler::Spaces(0);
        for (document, rest) in [
            ("{\"a\": \"b   c\"}    ", "{\"a\": \"b   c\"}"),
            ("   1   ", "   1"),
            ("    ", ""),
            ("{}\n  ", "{}\n"),
        ] {
            assert_eq!(in_pieces(new, document), rest, "{document:?}");
        }
    }
}
