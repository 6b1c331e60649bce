//! Accepts no more connections than memory is meant for.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A listener with so many places; who finds none waits in the kernel's queue until one is free.
pub struct BoundedListener {
    listener: TcpListener,
    connections: Connections,
}

/// How many connections there are; cheap to clone.
#[derive(Clone)]
pub struct Connections {
    places: Arc<Semaphore>,
    limit: usize,
}

impl Connections {
    /// None yet, and no more than `limit` at once.
    pub fn new(limit: usize) -> Self {
        let places = Arc::new(Semaphore::new(limit));
        Self { places, limit }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.limit.saturating_sub(self.places.available_permits())
    }

    /// How many may be.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

/// A connection that holds its place until it is closed.
pub struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

/// Who has connected.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, BoundedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl BoundedListener {
    /// `listener` with places for so many `connections`.
    pub fn new(listener: TcpListener, connections: Connections) -> Self {
        Self {
            listener,
            connections,
        }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Nobody closes the semaphore.
            let Ok(place) = Arc::clone(&self.connections.places).acquire_owned().await else {
                return std::future::pending().await;
            };
            let (stream, address) = Listener::accept(&mut self.listener).await;
            // Answers are small: waiting to fill a packet would only add latency.
            if stream.set_nodelay(true).is_ok() {
                let connection = Connection {
                    stream,
                    _place: place,
                };
                return (connection, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
