//! Which port a process listens on, and what it answers there.
//!
//! Invariant: only sockets that the process itself holds are reported, so a stranger on the same
//! port is never mistaken for it.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long one query may take.
const QUERY_DEADLINE: Duration = Duration::from_secs(3);

/// The answers that we look at are far shorter than this.
const ANSWER_BYTES: u64 = 4096;

/// The port of the loopback interface that process `pid` listens on.
pub(super) fn listening_port(pid: u32) -> io::Result<Option<u16>> {
    let mut held = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed between the listing and the look at it.
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        if let Some(inode) = target.to_str().and_then(socket_inode) {
            held.insert(inode);
        }
    }
    if held.is_empty() {
        return Ok(None);
    }
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    Ok(table
        .lines()
        .filter_map(listener)
        .find(|(address, inode)| held.contains(inode) && *address.ip() == Ipv4Addr::LOCALHOST)
        .map(|(address, _)| address.port()))
}

/// `socket:[12345]` names the socket with inode 12345.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The local address and inode of a line of `/proc/net/tcp`, if it is a listening socket.
fn listener(line: &str) -> Option<(SocketAddrV4, u64)> {
    const LISTEN: &str = "0A";

    let fields: Vec<&str> = line.split_whitespace().collect();
    let [
        _slot,
        local,
        _remote,
        LISTEN,
        _queues,
        _timer,
        _retransmits,
        _uid,
        _timeout,
        inode,
        ..,
    ] = fields[..]
    else {
        return None;
    };
    let (ip, port) = local.split_once(':')?;
    // The kernel prints the address as the number that the network-order bytes make here.
    let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((
        SocketAddrV4::new(Ipv4Addr::from(ip), port),
        inode.parse().ok()?,
    ))
}

/// The body of the answer to a query over HTTP; `None` if there is none or it is an error.
pub(super) async fn query(port: u16, user: &str, password: &str, sql: &str) -> Option<String> {
    let request = format!(
        "POST / HTTP/1.0\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\nContent-Length: {}\r\n\r\n{sql}",
        sql.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream
            .take(ANSWER_BYTES)
            .read_to_string(&mut answer)
            .await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(QUERY_DEADLINE, exchange)
        .await
        .ok()?
        .ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?;
    (status == "200").then(|| body.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_lines_are_told_from_others() {
        let line = "   0: 0100007F:95B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            assert_eq!(
                listener(line),
                Some((SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0x95B3), 4711))
            );
        }
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(
            listener("  sl  local_address rem_address   st tx_queue rx_queue tr"),
            None
        );
        assert_eq!(listener(""), None);
        assert_eq!(socket_inode("socket:[4711]"), Some(4711));
        assert_eq!(socket_inode("/dev/null"), None);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_own_listener_is_found_and_silence_is_no_answer() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listening_port(std::process::id()).unwrap().is_some());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream)
            }
        });
        assert_eq!(query(port, "u", "p", "SELECT 1").await, None);
    }
}
