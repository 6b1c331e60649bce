//! A real nginx with the shipped configuration.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::directory;
use super::service::children;

/// It and its workers end when this is dropped.
pub struct Nginx {
    child: Child,
    pub address: SocketAddr,
    pub directory: PathBuf,
}

/// Whether nginx is installed; where not, the test says so.
pub fn is_missing() -> bool {
    let missing = Command::new("nginx").arg("-v").output().is_err();
    if missing {
        println!("SKIPPED: no nginx");
    }
    missing
}

/// A port that was free a moment ago.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A copy of the shipped directory for these instances. Only what belongs to the place it runs at is
/// written anew: `servers.conf`, `listen.conf`, and where temporary files are kept.
pub fn configure(name: &str, listen: SocketAddr, servers: &[SocketAddr]) -> PathBuf {
    let directory = directory(name);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx");
    copy(&shipped, &directory);
    let shipped = std::fs::read_to_string(shipped.join("servers.conf")).unwrap();
    // As in the shipped file but for the names.
    let parameters = shipped
        .lines()
        .find_map(|line| line.strip_prefix("server api-1:8000"))
        .unwrap();
    let servers = servers
        .iter()
        .map(|at| format!("server {at}{parameters}\n"));
    std::fs::write(directory.join("servers.conf"), servers.collect::<String>()).unwrap();
    std::fs::write(directory.join("listen.conf"), format!("listen {listen};")).unwrap();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| {
        let path = directory.join("temporary").join(kind);
        std::fs::create_dir_all(&path).unwrap();
        format!("{kind}_temp_path {};\n", path.display())
    });
    std::fs::write(directory.join("conf.d/test.conf"), paths.concat()).unwrap();
    directory
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn command(directory: &Path) -> Command {
    let mut command = Command::new("nginx");
    let pid = directory.join("pid");
    command
        .args(["-e", "stderr", "-p"])
        .arg(directory)
        .arg("-c")
        .arg(directory.join("nginx.conf"))
        .args(["-g", &format!("daemon off; pid {};", pid.display())])
        .stdin(Stdio::null());
    command
}

impl Nginx {
    /// In front of these instances.
    pub fn start(name: &str, servers: &[SocketAddr]) -> Self {
        let address = free_address();
        let directory = configure(name, address, servers);
        Self::run(directory, address)
    }

    /// With a directory that is ready.
    pub fn run(directory: PathBuf, address: SocketAddr) -> Self {
        let log = std::fs::File::create(directory.join("access.log")).unwrap();
        let child = command(&directory).stdout(log).spawn().unwrap();
        let nginx = Self {
            child,
            address,
            directory,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        nginx
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The lines of the access log.
    pub fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.join("access.log")).unwrap();
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        text.lines().map(parse).collect()
    }

    /// The most memory that one of its workers ever had, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        let workers = children(self.child.id());
        assert!(!workers.is_empty());
        workers.into_iter().map(peak_memory_kib).max().unwrap()
    }

    /// Bytes in temporary files.
    pub fn temporary_bytes(&self) -> u64 {
        size(&self.directory.join("temporary"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM to the master ends the workers too; SIGKILL would leave them.
        super::service::signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

fn size(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.path().is_dir() {
        true => size(&entry.path()),
        false => entry.metadata().map_or(0, |data| data.len()),
    });
    sizes.sum()
}

/// The most memory that a process ever had, in KiB.
pub fn peak_memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}
