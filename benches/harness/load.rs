//! A load generator for HTTP/1.1 on one thread: non-blocking sockets that are kept alive, requests
//! rendered into reused buffers, answers read just far enough to know their status and their end.
//!
//! Closed loop: each connection sends its next request when it has its answer. Open loop: requests
//! fall due at a fixed rate whatever the answers do, and a latency counts from the moment when its
//! request fell due, so that a stall is charged to all requests that it held up.
//!
//! An answer of another status than the expected one fails the benchmark.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// How long answers may take once nothing more is sent.
const PATIENCE: Duration = Duration::from_secs(60);
const TIMER: Token = Token(usize::MAX);

/// When requests are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As soon as the connection has its answer.
    Closed,
    /// So many a second.
    Open(f64),
}

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// All that goes into this time.
    For(Duration),
    /// So many requests.
    Requests(u64),
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub address: SocketAddr,
    pub connections: usize,
    pub expected_status: u16,
    pub pace: Pace,
    pub amount: Amount,
}

/// What came of it.
pub struct Outcome {
    pub answers: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// In microseconds.
    pub latencies: Histogram<u64>,
    /// Of all answers, without their heads.
    pub body_bytes: u64,
}

/// Latencies of up to a minute, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds")
}

struct Connection<'a> {
    stream: TcpStream,
    /// The head of the request, and the body too where that is small.
    head: Vec<u8>,
    /// What follows the head.
    body: &'a [u8],
    sent: usize,
    input: Vec<u8>,
    due: Instant,
}

/// An answer that is there to its end.
struct Answer {
    status: u16,
    body_bytes: usize,
    keeps_alive: bool,
}

impl Load {
    /// Runs it. `render` appends the next request to the buffer; a large body it returns instead,
    /// so that it need not be copied.
    pub fn run<'a>(&self, mut render: impl FnMut(&mut Vec<u8>) -> &'a [u8]) -> Outcome {
        let mut poll = Poll::new().expect("an event queue");
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; 256 * 1024];
        let mut connections: Vec<Connection<'a>> = (0..self.connections)
            .map(|i| Connection::open(self.address, &poll, Token(i)))
            .collect();
        let mut idle: VecDeque<usize> = (0..self.connections).collect();
        let mut held_up: VecDeque<Instant> = VecDeque::new();
        let mut wrong = Wrong::default();

        let begin = Instant::now();
        let (end, most) = match self.amount {
            Amount::For(time) => (begin + time, u64::MAX),
            Amount::Requests(count) => (begin + PATIENCE * 10, count),
        };
        let interval = match self.pace {
            Pace::Closed => None,
            Pace::Open(per_second) => Some(Duration::from_secs_f64(1.0 / per_second)),
        };
        let timer = interval.map(|interval| timer(interval, &poll));

        let mut outcome = Outcome {
            answers: 0,
            elapsed: Duration::ZERO,
            latencies: histogram(),
            body_bytes: 0,
        };
        let (mut begun, mut due_count) = (0_u64, 0_u32);
        loop {
            let now = Instant::now();
            if let Some(interval) = interval {
                loop {
                    let due = begin + interval * due_count;
                    if due > now || due >= end || u64::from(due_count) >= most {
                        break;
                    }
                    held_up.push_back(due);
                    due_count += 1;
                }
            }
            while let Some(&index) = idle.front() {
                let due = match interval {
                    Some(_) => held_up.pop_front(),
                    None => (now < end && begun < most).then(Instant::now),
                };
                let Some(due) = due else { break };
                idle.pop_front();
                begun += 1;
                let connection = &mut connections[index];
                connection.head.clear();
                connection.body = render(&mut connection.head);
                (connection.sent, connection.due) = (0, due);
                connection.send();
            }
            let all_sent = now >= end || begun >= most;
            if all_sent && held_up.is_empty() && idle.len() == connections.len() {
                break;
            }
            assert!(
                now < end + PATIENCE,
                "{} of {begun} requests unanswered, {} not even sent: the rate can't be kept up",
                connections.len() - idle.len(),
                held_up.len()
            );

            let wait = Duration::from_millis(100);
            match poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome.expect("events"),
            }
            for event in &events {
                if event.token() == TIMER {
                    let timer = timer.as_ref().expect("only a timer has its token");
                    rustix::io::read(timer, &mut [0_u8; 8]).expect("how often it fell due");
                    continue;
                }
                let index = event.token().0;
                let connection = &mut connections[index];
                if event.is_writable() {
                    connection.send();
                }
                if !event.is_readable() {
                    continue;
                }
                let Some(answer) = connection.receive(&mut scratch) else {
                    continue;
                };
                if answer.status == self.expected_status {
                    outcome.answers += 1;
                    outcome.body_bytes += answer.body_bytes as u64;
                    let latency = connection.due.elapsed().as_micros() as u64;
                    outcome.latencies.saturating_record(latency.max(1));
                } else {
                    wrong.note(answer.status, &connection.input);
                }
                connection.input.clear();
                if !answer.keeps_alive {
                    *connection = Connection::open(self.address, &poll, event.token());
                }
                idle.push_back(index);
            }
        }
        outcome.elapsed = begin.elapsed();
        assert!(
            wrong.count == 0,
            "{} of {begun} answers are not {}; the first: {}",
            wrong.count,
            self.expected_status,
            wrong.first
        );
        outcome
    }
}

/// Answers that were not expected.
#[derive(Default)]
struct Wrong {
    count: u64,
    first: String,
}

impl Wrong {
    fn note(&mut self, status: u16, answer: &[u8]) {
        if self.count == 0 {
            let text = String::from_utf8_lossy(answer);
            self.first = format!("{status}: {}", text.chars().take(2000).collect::<String>());
        }
        self.count += 1;
    }
}

impl<'a> Connection<'a> {
    fn open(address: SocketAddr, poll: &Poll, token: Token) -> Self {
        let stream = std::net::TcpStream::connect(address)
            .unwrap_or_else(|e| panic!("can't connect to {address}: {e}"));
        stream.set_nodelay(true).expect("a TCP option");
        stream.set_nonblocking(true).expect("a socket option");
        let mut stream = TcpStream::from_std(stream);
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut stream, token, both)
            .expect("a place in the event queue");
        Self {
            stream,
            head: Vec::new(),
            body: &[],
            sent: 0,
            input: Vec::new(),
            due: Instant::now(),
        }
    }

    /// Sends as much as the socket takes; the rest when it is writable again.
    fn send(&mut self) {
        let whole = self.head.len() + self.body.len();
        while self.sent < whole {
            let rest = match self.head.get(self.sent..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => &self.body[self.sent - self.head.len()..],
            };
            match self.stream.write(rest) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("request not sent: {error}"),
            }
        }
    }

    /// The answer, once it is there to its end; it stays in the input.
    fn receive(&mut self, scratch: &mut [u8]) -> Option<Answer> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => panic!(
                    "connection closed in the middle of an answer: {:?}",
                    String::from_utf8_lossy(&self.input)
                ),
                Ok(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    if let Some(answer) = whole_answer(&self.input) {
                        return Some(answer);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }
}

/// Reads an answer; nothing while a part is missing.
fn whole_answer(input: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begin) = head.parse(input).expect("an HTTP answer") else {
        return None;
    };
    let (mut length, mut is_chunked, mut keeps_alive) = (0, false, true);
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).expect("a number");
            length = text.parse().expect("a length");
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = header.value.eq_ignore_ascii_case(b"chunked");
        } else if header.name.eq_ignore_ascii_case("connection") {
            keeps_alive = !header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let status = head.code.unwrap_or_default();
    let body = &input[begin..];
    let body_bytes = if is_chunked {
        whole_chunks(body)?
    } else {
        (body.len() >= length).then_some(length)?
    };
    Some(Answer {
        status,
        body_bytes,
        keeps_alive,
    })
}

/// The bytes in a chunked body; nothing while a part is missing.
fn whole_chunks(mut rest: &[u8]) -> Option<usize> {
    let mut bytes = 0;
    loop {
        let httparse::Status::Complete((head, length)) =
            httparse::parse_chunk_size(rest).expect("the size of a chunk")
        else {
            return None;
        };
        let length = usize::try_from(length).expect("a small chunk");
        rest = rest.get(head + length + 2..)?;
        if length == 0 {
            return Some(bytes);
        }
        bytes += length;
    }
}

/// Wakes the event queue every `interval`, if it is read each time: the kernel sets it again only then.
fn timer(interval: Duration, poll: &Poll) -> std::os::fd::OwnedFd {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).expect("a timer");
    let interval = Timespec::try_from(interval).expect("a time span");
    let every = Itimerspec {
        it_interval: interval,
        it_value: interval,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every).expect("a timer");
    poll.registry()
        .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)
        .expect("a place in the event queue");
    timer
}
