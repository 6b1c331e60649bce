//! The rest of a request's body that nobody wants.
//!
//! Over HTTP/1 the next request begins behind it. hyper reads on only where the rest is there already,
//! else it closes, and the answer does not say so: a client would send its next request in vain. So it
//! is settled before the answer goes out which of both it is.
//!
//! Invariants: no more than a short rest is read, and not for long; a client that waits to be told to
//! send its body is not told.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::timeout;

/// The longest rest that is read for the sake of the connection: less than a new one costs.
const SHORT_BYTES: u64 = 64 << 10;
/// How long it may take: a round trip, as the rest is on its way already.
const SHORT_WAIT: Duration = Duration::from_millis(250);

/// What is left of the body that is being received; of one connection.
#[derive(Default)]
pub(super) struct Rest(Mutex<State>);

#[derive(Default)]
enum State {
    /// Nothing.
    #[default]
    Read,
    /// Something that can't be read any more, or not yet.
    Unread,
    /// Something that can be read.
    Left(Incoming),
}

impl Rest {
    /// `request`, whose body comes back here unless it is read to its end.
    pub(super) fn lend(self: &Arc<Self>, request: Request<Incoming>) -> Request<Body> {
        *self.state() = State::Unread;
        let is_asked_for = !request.headers().contains_key(header::EXPECT);
        request.map(|body| {
            Body::new(Lent {
                body: Some(body),
                is_asked_for,
                rest: Arc::clone(self),
            })
        })
    }

    /// Whether the connection can't be used any further.
    pub(super) fn is_unread(&self) -> bool {
        !matches!(*self.state(), State::Read)
    }

    /// Reads what is left, if it is short and there at once.
    pub(super) async fn read(&self) {
        let left = std::mem::replace(&mut *self.state(), State::Unread);
        let is_read = match left {
            State::Read => true,
            State::Unread => false,
            State::Left(body) if body.size_hint().lower() > SHORT_BYTES => false,
            State::Left(body) => timeout(SHORT_WAIT, ends(body)).await == Ok(true),
        };
        if is_read {
            *self.state() = State::Read;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `body` is as short as that.
async fn ends(mut body: Incoming) -> bool {
    let mut bytes = 0;
    while bytes <= SHORT_BYTES {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match next {
            Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => return false,
            None => return true,
        }
    }
    false
}

/// A body that is handed on to whoever answers the request.
struct Lent {
    /// Until it is read to its end, or broken.
    body: Option<Incoming>,
    /// The client sends it without being told to, or has been told.
    is_asked_for: bool,
    rest: Arc<Rest>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        this.is_asked_for = true;
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) if !body.is_end_stream() => {}
            Some(Err(_)) => this.body = None,
            Some(Ok(_)) | None => {
                this.body = None;
                *this.rest.state() = State::Read;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && self.is_asked_for
        {
            *self.rest.state() = State::Left(body);
        }
    }
}
