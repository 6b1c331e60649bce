//! Connections: who gets one, what is spoken over it, and how long it may last.
//!
//! Purpose: HTTP/1.1 and HTTP/2 on one port, with or without TLS, for clients of which any may be slow,
//! silent or hostile.
//!
//! Invariants: a connection that gets nowhere is closed, whatever it is waiting for: the handshake, a
//! head, the next request, a client that does not read; one that has a request under way is not. What
//! one connection can make the service keep in memory is bounded. The stop waits for requests, not for
//! clients. An answer to a request whose body was not read says whether the connection ends, and is not
//! destroyed by what its client still sends. (hyper's own answers to heads that it can't read may be.)
//!
//! Refuses to know: routes, bodies (`http::pace` has their time-outs), keys.

mod places;
mod progress;
mod rest;
mod stream;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, Version, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, error, warn};

use crate::pipeline::Seldom;
use crate::tls::Certificate;
use places::{Closed, Place};
pub use places::{Connections, PerAddress};
pub(super) use progress::MIN_BYTES_PER_SEC;
pub use progress::Timeouts;
use progress::{Progress, Verdict};
use rest::Rest;
use stream::Watched;

/// The largest head of a request, and what is read of a body at once: the longest URL that hyper takes
/// (65,534 bytes, some 1,400 sites of a report), and 8 KiB beside it.
const MAX_HEAD_BYTES: usize = 72 << 10;
/// The largest head of a request over HTTP/2, counted as RFC 9113 (section 6.5.2) has it. Announced to
/// clients.
const MAX_HEADER_LIST_BYTES: u32 = MAX_HEAD_BYTES as u32;
/// Requests at once over one HTTP/2 connection: RFC 9113 asks for no fewer than 100.
const MAX_STREAMS: u32 = 100;
/// What one stream, and all streams of a connection, may send before it is read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What is kept of one stream's answer beyond its last piece.
const MAX_SEND_BYTES: usize = 64 << 10;
/// The largest piece of an answer over HTTP/2: what may wait of an answer that counts as sent. A client
/// must take one within the time-out for writing, which at 500 bytes a second takes 16 s.
const PIECE_BYTES: usize = 8 << 10;
/// Streams that a client has given up before they were looked at ("rapid reset", CVE-2023-44487), and
/// that were given up because the client broke the protocol. Beyond that it is told to go away.
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 100;
/// How often a quiet HTTP/2 client is asked whether it is still there, and how long it may take to say.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to leave that was asked to.
const LEAVE: Duration = Duration::from_secs(1);
/// How long to wait when there is nothing to accept a connection with, such as a file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Who has connected.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// What serves connections.
pub struct Server {
    router: Router,
    connections: Connections,
    timeouts: Timeouts,
    certificate: Option<Arc<Certificate>>,
    builder: auto::Builder<TokioExecutor>,
}

impl Server {
    /// Of `router`; over TLS if there is a `certificate`.
    pub fn new(
        router: Router,
        connections: Connections,
        timeouts: Timeouts,
        certificate: Option<Arc<Certificate>>,
    ) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(MAX_SEND_BYTES)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_ERROR_RESETS);
        Self {
            router,
            connections,
            timeouts,
            certificate,
            builder,
        }
    }

    /// Accepts connections until `stop`, then waits until those that are open have ended. When it is
    /// dropped they go on all the same.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let (server, stopping) = (Arc::new(self), CancellationToken::new());
        let (tasks, mut stop) = (TaskTracker::new(), pin!(stop));
        loop {
            let (socket, peer, place) = tokio::select! {
                accepted = server.accept(&listener) => accepted,
                () = &mut stop => break,
            };
            let connection = Arc::clone(&server).connection(socket, peer, stopping.clone());
            tasks.spawn(async move {
                connection.await;
                drop(place);
            });
        }
        drop(listener);
        stopping.cancel();
        tasks.close();
        tasks.wait().await;
    }

    async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Place) {
        static REFUSED: Seldom = Seldom::new();
        loop {
            let permit = self.connections.free().await;
            let (socket, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_the_clients(&error) => continue,
                Err(error) => {
                    error!(%error, "no connection accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = self.connections.take(permit, peer.ip()) else {
                self.connections.count(Closed::Address);
                REFUSED.say(|left_out| {
                    warn!(address = %peer.ip(), left_out, "connection refused: its address has too many");
                });
                continue;
            };
            // Answers are small: waiting to fill a packet would only add latency.
            if socket.set_nodelay(true).is_ok() {
                return (socket, peer, place);
            }
        }
    }

    async fn connection(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        stopping: CancellationToken,
    ) {
        let progress = Arc::new(Progress::new(self.timeouts));
        let rest = Arc::new(Rest::default());
        let stream = Watched::new(socket, Arc::clone(&progress), Arc::clone(&rest));
        let Some(certificate) = &self.certificate else {
            return self.http(stream, peer, progress, rest, stopping).await;
        };
        let acceptor = TlsAcceptor::from(certificate.config());
        let handshake = timeout(self.timeouts.head, acceptor.accept(stream));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            () = stopping.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                progress.shook_hands(Instant::now());
                // Else every connection without TLS would take as much memory.
                Box::pin(self.http(stream, peer, progress, rest, stopping)).await;
            }
            Ok(Err(error)) => {
                self.connections.count(Closed::Handshake);
                debug!(%peer, %error, "no TLS handshake");
            }
            Err(_) => {
                self.connections.count(Closed::Handshake);
                debug!(%peer, "TLS handshake not in time");
            }
        }
    }

    async fn http<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        progress: Arc<Progress>,
        rest: Arc<Rest>,
        stopping: CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, noted) = (self.router.clone(), Arc::clone(&progress));
        let service = service_fn(move |request: Request<Incoming>| {
            let is_multiplexed = request.version() >= Version::HTTP_2;
            let under_way = UnderWay::begin(&noted, is_multiplexed);
            // Streams end singly.
            let is_lent = !is_multiplexed && !request.body().is_end_stream();
            let rest = is_lent.then(|| Arc::clone(&rest));
            let mut request = match &rest {
                Some(rest) => rest.lend(request),
                None => request.map(Body::new),
            };
            request.extensions_mut().insert(ConnectInfo(Peer(peer)));
            let answer = router.clone().call(request);
            async move {
                let Ok(mut answer) = answer.await;
                if let Some(rest) = rest.filter(|rest| rest.is_unread()) {
                    // Seldom, and else every connection would take as much memory.
                    Box::pin(rest.read()).await;
                    if rest.is_unread() {
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(header::CONNECTION, close);
                    }
                }
                Ok::<_, Infallible>(answer.map(|body| under_way.answers(body)))
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut look = pin!(sleep_until(Instant::now()));
        let (mut is_stopping, mut was_asked_to_leave) = (false, false);
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        debug!(%peer, error, "connection broken off");
                    }
                    return;
                }
                () = look.as_mut() => match progress.judge(Instant::now()) {
                    Verdict::Wait(until) => look.as_mut().reset(until),
                    Verdict::AskToLeave => {
                        was_asked_to_leave = true;
                        connection.as_mut().graceful_shutdown();
                        look.as_mut().reset(Instant::now() + LEAVE);
                    }
                    Verdict::Close(Closed::Idle) if !was_asked_to_leave => {
                        was_asked_to_leave = true;
                        self.connections.count(Closed::Idle);
                        connection.as_mut().graceful_shutdown();
                        look.as_mut().reset(Instant::now() + LEAVE);
                    }
                    Verdict::Close(reason) => {
                        if reason != Closed::Idle {
                            self.connections.count(reason);
                        }
                        debug!(%peer, reason = reason.name(), "connection closed");
                        return;
                    }
                },
                () = stopping.cancelled(), if !is_stopping => {
                    (is_stopping, was_asked_to_leave) = (true, true);
                    progress.stopping(Instant::now());
                    connection.as_mut().graceful_shutdown();
                    look.as_mut().reset(Instant::now());
                }
            }
        }
    }
}

/// Whether accepting failed because the client had gone again.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// A request from the end of its head to the end of its answer, however it ends.
struct UnderWay {
    progress: Arc<Progress>,
    /// The number of its answer.
    answer: Option<u64>,
    is_multiplexed: bool,
}

impl UnderWay {
    fn begin(progress: &Arc<Progress>, is_multiplexed: bool) -> Self {
        progress.request_begins(is_multiplexed);
        Self {
            progress: Arc::clone(progress),
            answer: None,
            is_multiplexed,
        }
    }

    fn answers(mut self, body: Body) -> Answer {
        self.answer = Some(self.progress.answer_begins(Instant::now()));
        Answer {
            body,
            rest: Bytes::new(),
            under_way: self,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.progress.request_ends(Instant::now(), self.answer);
    }
}

/// The body of an answer, which is asked for its next piece when the client has room for it.
///
/// Over HTTP/2 the pieces are small: a piece counts as taken, however much of it waits, as soon as the
/// client has room for its first byte.
struct Answer {
    body: Body,
    /// What is left of the body's last piece.
    rest: Bytes,
    under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Some(number) = this.under_way.answer {
            this.under_way.progress.answer_taken(number, Instant::now());
        }
        if !this.rest.is_empty() {
            let next = this.rest.len().min(PIECE_BYTES);
            return Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(next)))));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let frame = match polled {
            Poll::Ready(Some(Ok(frame))) if this.under_way.is_multiplexed => frame,
            other => return other,
        };
        let frame = match frame.into_data() {
            Ok(mut data) if data.len() > PIECE_BYTES => {
                this.rest = data.split_off(PIECE_BYTES);
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(frame) => frame,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}
