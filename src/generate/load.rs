//! Sends what is made up to a running service.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use futures_util::{TryStreamExt, stream};
use indicatif::ProgressBar;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Request, in_words};
use super::{Source, Tally};

/// How many updates of one batch are under way at once: together they take the service few inserts.
const UPDATES_AT_ONCE: usize = 8;

/// The content coding of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Identity,
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
}

/// How views and events are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// So many views, or the events of so many visits, in one request.
    Batches(u64, Compression),
    /// Each view or event in its own.
    Singles,
}

/// How the traffic is sent.
#[derive(Debug, Clone)]
pub struct Load {
    /// The service, `http://host:port`.
    pub url: String,
    /// The key that it is sent with.
    pub api_key: Option<String>,
    /// How they are posted.
    pub style: Style,
    /// Requests at once.
    pub connections: usize,
    /// Views or visits a second at most.
    pub rate: Option<f64>,
    /// How long one request is repeated while there is no answer, or "try again".
    pub patience: Duration,
}

/// What a batch is answered with.
#[derive(Deserialize)]
struct Receipt {
    accepted: u64,
    rejected_count: u64,
    rejected: Vec<serde_json::Value>,
}

struct Sender {
    source: Source,
    load: Load,
    client: Client,
    tally: Arc<Tally>,
    stop: CancellationToken,
    bar: ProgressBar,
    begun: Instant,
    next: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Load {
    /// Sends all of `source` with its repeats, and updates each view that is to be updated once the
    /// service has it. Ends early when `stop` is cancelled, and at the first request that is given
    /// up: a service that is gone for so long is not to be waited for once per request.
    ///
    /// # Errors
    /// Why a request was given up; `tally` says what became of the others.
    pub async fn run(
        self,
        source: Source,
        tally: Arc<Tally>,
        stop: CancellationToken,
        bar: ProgressBar,
    ) -> Result<(), String> {
        let client = Client::new(&self.url, self.api_key.as_deref(), self.patience)?;
        let connections = self.connections;
        let sender = Arc::new(Sender {
            source,
            load: self,
            client,
            tally,
            stop,
            bar,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            failure: Mutex::new(None),
        });
        let mut senders = JoinSet::new();
        for _ in 0..connections {
            senders.spawn(Arc::clone(&sender).work());
        }
        senders.join_all().await;
        let failure = sender
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(()), Err)
    }
}

impl Sender {
    async fn work(self: Arc<Self>) {
        let size = match self.load.style {
            Style::Batches(size, _) => size,
            Style::Singles => 1,
        };
        while !self.stop.is_cancelled() {
            let start = self.next.fetch_add(size, Ordering::Relaxed);
            if start >= self.source.count() || !self.is_due(start).await {
                return;
            }
            let block = start..self.source.count().min(start + size);
            let numbers = block.end - block.start;
            let sent = match self.load.style {
                Style::Batches(_, compression) => self.batch(block, compression).await,
                Style::Singles => self.single(start).await,
            };
            match sent {
                Ok(()) => {
                    self.tally.add_done(numbers);
                    self.bar.inc(numbers);
                }
                Err(reason) => {
                    let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    // An interruption is no failure of the service.
                    if !self.stop.is_cancelled() {
                        failure.get_or_insert(reason);
                    }
                    self.stop.cancel();
                }
            }
        }
    }

    /// Waits for the time at which `number` is to be sent; false when there is no more sending.
    async fn is_due(&self, number: u64) -> bool {
        if let Some(rate) = self.load.rate {
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds more or less")]
            let due = self.begun + Duration::from_secs_f64(number as f64 / rate);
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.stop.cancelled() => {}
            }
        }
        !self.stop.is_cancelled()
    }

    async fn batch(&self, block: Range<u64>, compression: Compression) -> Result<(), String> {
        let mut text = Vec::new();
        let posts = self.source.lines(block.clone(), &mut text);
        let (encoding, body) = encoded(text, compression).await;
        let request = Request {
            method: Method::POST,
            path: self.source.path().to_owned(),
            content_type: "application/x-ndjson",
            encoding,
            body: body.into(),
            may_be_on_its_way: false,
        };
        let answer = self.send(&request, posts).await?;
        let receipt = match serde_json::from_slice::<Receipt>(&answer.body) {
            Ok(receipt) if answer.status.is_success() => receipt,
            _ => {
                self.tally.add_lost(posts);
                return Err(format!("{} answers {}", self.load.url, in_words(&answer)));
            }
        };
        self.tally.add_accepted(receipt.accepted);
        if receipt.rejected_count > 0 && self.tally.rejected() == 0 {
            let first = receipt.rejected.first().map(|line| &line["errors"][0]);
            let said = first.map(|error| format!("{} {}", error["field"], error["detail"]));
            self.tell(&format!("rejected: {}", said.unwrap_or_default()));
        }
        self.tally.add_rejected(receipt.rejected_count);
        if receipt.accepted == 0 {
            return Ok(());
        }
        let spooled = answer.status == StatusCode::ACCEPTED;
        let updates = block.filter_map(|number| self.source.update(number));
        stream::iter(updates.map(Ok))
            .try_for_each_concurrent(UPDATES_AT_ONCE, |update| self.update(update, spooled))
            .await
    }

    async fn single(&self, number: u64) -> Result<(), String> {
        let mut spooled = None;
        for post in self.source.singles(number) {
            if let Some(status) = self.one(&post).await? {
                self.tally.add_accepted(1);
                spooled = Some(status == StatusCode::ACCEPTED);
            }
        }
        match (spooled, self.source.update(number)) {
            (Some(spooled), Some(update)) => self.update(update, spooled).await,
            _ => Ok(()),
        }
    }

    async fn update(&self, mut put: Request, spooled: bool) -> Result<(), String> {
        put.may_be_on_its_way = spooled;
        if self.one(&put).await?.is_some() {
            self.tally.add_updated();
        }
        Ok(())
    }

    /// The status of success, or nothing when the service refuses this record.
    async fn one(&self, request: &Request) -> Result<Option<StatusCode>, String> {
        let answer = self.send(request, 1).await?;
        if answer.status.is_success() {
            return Ok(Some(answer.status));
        }
        let of_this_record = [
            StatusCode::NOT_FOUND,
            StatusCode::CONFLICT,
            StatusCode::UNPROCESSABLE_ENTITY,
        ];
        if !of_this_record.contains(&answer.status) {
            self.tally.add_lost(1);
            return Err(format!("{} answers {}", self.load.url, in_words(&answer)));
        }
        if self.tally.rejected() == 0 {
            self.tell(&format!("rejected: {}", in_words(&answer)));
        }
        self.tally.add_rejected(1);
        Ok(None)
    }

    async fn send(&self, request: &Request, records: u64) -> Result<super::client::Answer, String> {
        let tell = |text: &str| self.tell(text);
        let sent = self.client.send(request, &self.tally, &self.stop, &tell);
        sent.await.inspect_err(|_| self.tally.add_lost(records))
    }

    fn tell(&self, text: &str) {
        self.bar.suspend(|| eprintln!("traffic-api: {text}"));
    }
}

async fn encoded(text: Vec<u8>, compression: Compression) -> (Option<&'static str>, Vec<u8>) {
    // Into memory: nothing can fail.
    match compression {
        Compression::Identity => (None, text),
        Compression::Gzip => {
            let mut encoder = GzipEncoder::new(Vec::new());
            let _ = encoder.write_all(&text).await;
            let _ = encoder.shutdown().await;
            (Some("gzip"), encoder.into_inner())
        }
        Compression::Zstd => {
            let mut encoder = ZstdEncoder::new(Vec::new());
            let _ = encoder.write_all(&text).await;
            let _ = encoder.shutdown().await;
            (Some("zstd"), encoder.into_inner())
        }
    }
}
