//! Normal traffic beside clients that hold connections and get nowhere: single POSTs at a fixed rate,
//! each answer checked, with and without 2,000 others, half of which have sent nothing and stay, while
//! the rest send a byte of a head or of a body each second. Whoever is cut off comes back at once, so
//! that there are always as many.
//!
//! `cargo bench --bench slow_clients`; `BENCH_SLOW_CLIENTS=2000`, `BENCH_RATE=2000` for other numbers of
//! them and views a second.

#[allow(dead_code, unused_imports, reason = "other benchmarks use the rest")]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use harness::load::{Amount, Load, Pace};
use harness::requests::posts;
use harness::rounds::{Processes, Rounds, Turn, interleave, round};
use harness::stack::Stack;
use harness::views::Population;
use harness::{meter, place::Place, setting};

/// More than are ever under way at once.
const CONNECTIONS: usize = 256;
/// How often each dripping client sends a byte.
const DRIP: Duration = Duration::from_secs(1);
/// All have sent something after this time.
const WARM_UP: Duration = Duration::from_millis(2500);

const HEAD: &[u8] =
    b"POST /api/traffic/1 HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nx: ";
const BODY: &[u8] = b"POST /api/traffic/1 HTTP/1.1\r\nhost: bench\r\n\
    content-type: application/json\r\ncontent-length: 60000\r\n\r\n{\"page_url\": \"";

fn main() {
    let rounds: usize = setting("BENCH_ROUNDS", 3);
    let time = Duration::from_secs_f64(setting("BENCH_SECS", 10.0));
    let rate: u64 = setting("BENCH_RATE", 2000);
    let number: usize = setting("BENCH_SLOW_CLIENTS", 2000);
    let stack = Stack::start(Place::fast());
    let service = stack.service("slow_clients", &[]);
    let processes = Processes {
        service: Some(service.pid()),
        engine: Some(stack.engine_pid()),
    };
    let load = Load {
        address: service.address,
        connections: CONNECTIONS,
        expected_status: 201,
        pace: Pace::Open(rate as f64),
        amount: Amount::For(time),
    };
    let once = || {
        round(&stack, processes, 1, || {
            posts(load, Population::usual(), "")
        })
    };
    let (mut alone_mib, mut beside_mib, mut cut_off) = (0, 0, 0);
    let alone = || {
        let round = once();
        alone_mib = alone_mib.max(meter::memory(service.pid()).0);
        round
    };
    let beside = || {
        let clients = SlowClients::start(service.address, number);
        std::thread::sleep(WARM_UP);
        let round = once();
        beside_mib = beside_mib.max(meter::memory(service.pid()).0);
        cut_off += clients.stop();
        round
    };
    let contestants: Vec<(&str, Turn<'_>)> = vec![
        ("alone", Box::new(alone)),
        ("beside slow clients", Box::new(beside)),
    ];
    let all = interleave(rounds, contestants);
    println!("\n{rate} views/s due, {number} slow clients, {rounds} rounds of {time:?}");
    Rounds::heading();
    for one in &all {
        one.line();
    }
    for share in [0.5, 0.99, 0.999] {
        let [alone, beside] = [&all[0], &all[1]].map(|one| one.latency_ms(share));
        println!(
            "p{:<5} {alone:.2} ms alone, {beside:.2} ms beside them: {:.2} times",
            share * 100.0,
            beside / alone
        );
    }
    println!(
        "the service's memory, at most: {alone_mib} MiB alone, {beside_mib} MiB beside them; {cut_off} were cut off"
    );
}

/// Clients on one thread, which sleeps nearly all the time.
struct SlowClients {
    stop: Arc<AtomicBool>,
    cut_off: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

struct SlowClient {
    stream: TcpStream,
    /// What it begins with, before the bytes that drip; none for one that only waits.
    begins: &'static [u8],
}

impl SlowClient {
    fn open(address: SocketAddr, begins: &'static [u8]) -> Self {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(begins).expect("a beginning");
        stream.set_nonblocking(true).expect("a socket option");
        Self { stream, begins }
    }

    /// Sends a byte, if it does; whether the connection is still there.
    fn drip(&mut self) -> bool {
        let sent = self.begins.is_empty() || self.stream.write_all(b"a").is_ok();
        // An answer is 408; then comes the end.
        let open = matches!(self.stream.read(&mut [0; 512]),
            Err(error) if error.kind() == ErrorKind::WouldBlock);
        sent && open
    }
}

impl SlowClients {
    fn start(address: SocketAddr, number: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cut_off = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&cut_off));
        let mut clients: Vec<SlowClient> = (0..number)
            .map(|i| SlowClient::open(address, [b"", HEAD, b"", BODY][i % 4]))
            .collect();
        let thread = std::thread::spawn(move || {
            // A few at a time, so that they don't come in one burst.
            let step = DRIP / 50;
            let mut next = 0;
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                for client in clients.iter_mut().skip(next).step_by(50) {
                    if !client.drip() {
                        counted.fetch_add(1, Ordering::Relaxed);
                        *client = SlowClient::open(address, client.begins);
                    }
                }
                next = (next + 1) % 50;
                std::thread::sleep(step.saturating_sub(began.elapsed()));
            }
        });
        Self {
            stop,
            cut_off,
            thread,
        }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        self.cut_off.load(Ordering::Relaxed)
    }
}
