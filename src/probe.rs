//! `traffic-api probe`: the health check of a container that has no other program in it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;

use crate::tls;

/// How long each step may take. A service that needs longer to say that it lives does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the service that listens on `address` for its health, over TLS if it `serves_tls`; with
/// `ready`, also whether it takes views in.
///
/// # Errors
/// Its answer, if that was not 200, or why there is none.
pub fn probe(address: SocketAddr, serves_tls: bool, ready: bool) -> Result<()> {
    let address = SocketAddr::new(reachable(address.ip()), address.port());
    let path = if ready { "/health/ready" } else { "/health" };
    let answer = status_line(address, serves_tls, path)
        .with_context(|| format!("no answer from {address}"))?;
    let status = answer.split(' ').nth(1);
    ensure!(status == Some("200"), "{address} answers {answer:?}");
    Ok(())
}

/// An address to serve on may mean "all of them".
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn status_line(address: SocketAddr, serves_tls: bool, path: &str) -> Result<String> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    if !serves_tls {
        return Ok(exchange(stream, &request)?);
    }
    let client = Arc::new(tls::unquestioning_client()?);
    let connection = rustls::ClientConnection::new(client, ServerName::from(address.ip()))?;
    let stream = rustls::StreamOwned::new(connection, stream);
    Ok(exchange(stream, &request)?)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> std::io::Result<String> {
    // In one piece: whoever answers after the first piece has closed before the second.
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // The first line is all that matters.
    stream.take(256).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
