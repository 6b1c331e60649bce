//! A body that keeps moving.
//!
//! Only the client's time counts: while the service is busy with what has arrived, nobody looks at the
//! clock, and what has arrived meanwhile is taken without a question.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, Sleep, sleep_until};

use super::server::MIN_BYTES_PER_SEC;

/// The pieces of a body whose client may pause for as long as `patience`, and in all make the service
/// wait for as long as that and what 500 bytes a second take.
pub(super) struct Paced<S> {
    pieces: S,
    patience: Duration,
    waited: Duration,
    waiting_since: Option<Instant>,
    bytes: u64,
    timer: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    pub(super) fn new(pieces: S, patience: Duration) -> Self {
        Self {
            pieces,
            patience,
            waited: Duration::ZERO,
            waiting_since: None,
            bytes: 0,
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// How long this pause may last.
    fn left(&self) -> Duration {
        let earned = self.bytes / u64::from(MIN_BYTES_PER_SEC);
        let allowed = self.patience + Duration::from_secs(earned);
        self.patience.min(allowed.saturating_sub(self.waited))
    }
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Paced<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(piece) = this.pieces.poll_next_unpin(cx) {
            if let Some(since) = this.waiting_since.take() {
                this.waited += since.elapsed();
            }
            if let Some(Ok(piece)) = &piece {
                this.bytes += piece.len() as u64;
            }
            return Poll::Ready(piece);
        }
        if this.waiting_since.is_none() {
            let now = Instant::now();
            this.waiting_since = Some(now);
            let until = now + this.left();
            this.timer.as_mut().reset(until);
        }
        this.timer
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(io::ErrorKind::TimedOut.into())))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Sends so many pieces, each after a pause; how many come through, after how many seconds.
    async fn sent(pieces: usize, bytes: usize, pause: Duration) -> (usize, u64) {
        let began = Instant::now();
        let pieces = stream::iter(0..pieces).then(move |_| async move {
            sleep(pause).await;
            Ok(Bytes::from(vec![b'x'; bytes]))
        });
        let mut paced = Paced::new(Box::pin(pieces), PATIENCE);
        let mut arrived = 0;
        while let Some(Ok(_)) = paced.next().await {
            arrived += 1;
        }
        (arrived, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_and_must_move() {
        let second = Duration::from_secs(1);
        // 600 bytes a second, for as long as it takes.
        assert_eq!(sent(1000, 600, second).await, (1000, 1000));
        // One byte a second.
        assert_eq!(sent(1000, 1, second).await.1, 20);
        // 400 bytes a second: each takes a fifth of a second of the patience.
        let (arrived, seconds) = sent(1000, 400, second).await;
        assert!((95..=105).contains(&seconds), "{seconds} {arrived}");
        // Fast, but for one pause.
        assert_eq!(sent(1, 1 << 20, 19 * second).await, (1, 19));
        assert_eq!(sent(1, 1 << 20, 21 * second).await, (0, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn the_services_own_time_is_not_the_clients() {
        let pieces = stream::iter(0..10).map(|_| Ok(Bytes::from_static(b"x")));
        let mut paced = Paced::new(pieces, PATIENCE);
        for _ in 0..10 {
            sleep(60 * Duration::from_secs(1)).await;
            assert!(paced.next().await.unwrap().is_ok());
        }
        assert!(paced.next().await.is_none());
    }
}
