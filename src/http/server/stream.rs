//! A connection's socket, which notes whether bytes come and go.
//!
//! It is closed in stages (RFC 9112, section 9.6) where the client may still be sending: a socket that
//! is closed with bytes to read resets the connection, and that can destroy the answer before the client
//! has read it. Below TLS, as nobody wants to know what it was.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::progress::Progress;
use super::rest::Rest;

/// How long, and for how many bytes, a client may go on sending after its last answer: as much as a
/// client is likely to send before it reads. It keeps its place meanwhile; who says nothing at all keeps
/// it for longer (`HEADER_TIMEOUT_SECS`).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;
/// How long while the service stops.
const LINGER_AT_STOP: Duration = Duration::from_millis(250);
/// How much is thrown away at once.
const THROWN_AWAY: usize = 8 << 10;

pub(super) struct Watched {
    socket: TcpStream,
    progress: Arc<Progress>,
    rest: Arc<Rest>,
    is_blocked: bool,
    closing: Option<Closing>,
}

/// A connection over which nothing more is sent.
struct Closing {
    since: Instant,
    bytes: usize,
    timer: Pin<Box<Sleep>>,
}

impl Watched {
    pub(super) fn new(socket: TcpStream, progress: Arc<Progress>, rest: Arc<Rest>) -> Self {
        Self {
            socket,
            progress,
            rest,
            is_blocked: false,
            closing: None,
        }
    }

    fn wrote(&mut self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &outcome {
            Poll::Pending => {
                self.is_blocked = true;
                self.progress.blocked(Instant::now());
            }
            Poll::Ready(Ok(bytes)) if self.is_blocked => {
                self.is_blocked = false;
                self.progress.unblocked(Instant::now(), *bytes);
            }
            Poll::Ready(_) => {}
        }
        outcome
    }

    /// Throws away what the client still sends, until it ends or for long enough.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = self.closing.get_or_insert_with(|| {
            let since = Instant::now();
            Closing {
                since,
                bytes: 0,
                timer: Box::pin(sleep_until(since + LINGER)),
            }
        });
        if self.progress.is_stopping() {
            let until = closing.since + LINGER_AT_STOP;
            closing.timer.as_mut().reset(until);
        }
        let mut thrown_away = [0; THROWN_AWAY];
        while closing.timer.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            let read = ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer));
            let bytes = buffer.filled().len();
            closing.bytes += bytes;
            if read.is_err() || bytes == 0 || closing.bytes > LINGER_BYTES {
                break;
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.progress.read(Instant::now());
        }
        outcome
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write(cx, data);
        self.wrote(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write_vectored(cx, data);
        self.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
        }
        if self.rest.is_unread() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
