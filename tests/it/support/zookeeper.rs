//! A real ZooKeeper (Debian's package `libzookeeper-java`), alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cluster::free_port;
use super::directory;

const LIBRARY: &str = "/usr/share/java/zookeeper.jar";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct ZooKeeper {
    server: Child,
    pub port: u16,
}

impl ZooKeeper {
    /// Nothing where it is not installed.
    pub fn start(name: &str) -> Option<Self> {
        if !Path::new(LIBRARY).exists() {
            return None;
        }
        let (directory, port) = (directory(name), free_port());
        let config = format!(
            "tickTime=500\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr\n",
            directory.join("data").display()
        );
        std::fs::write(directory.join("zoo.cfg"), config).unwrap();
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let server = Command::new("java")
            .args(["-Xmx64m", "-XX:+UseSerialGC", "-cp", LIBRARY])
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg("zoo.cfg")
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .ok()?;
        let mut zookeeper = Self { server, port };
        let deadline = Instant::now() + PATIENCE;
        while !zookeeper.serves() {
            let ended = zookeeper.server.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "see {name}/log"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(zookeeper)
    }

    fn serves(&self) -> bool {
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let mut answer = String::new();
        let _ = socket.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = socket.write_all(b"srvr");
        let _ = socket.read_to_string(&mut answer);
        answer.contains("Mode: standalone")
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
