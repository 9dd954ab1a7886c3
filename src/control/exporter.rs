//! The metrics listener: HTTP/1.1, one thread, one request a connection, so that whoever asks, slowly or often, can
//! take neither threads nor descriptors from those who write.

use super::metrics::CONTENT_TYPE;
use crate::sys::clock::{Clock, RealClock};
use crate::sys::worker;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest request line with its headers.
const REQUEST_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

/// A client has this long for its request and for taking the answer; others wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

const PAGE: &str = "forelog: metrics are at /metrics\n";

/// A port that is ours, not yet served.
pub struct Bound(TcpListener, SocketAddr);

/// The running listener.
pub struct Exporter {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Takes the port. Errors: one line, what to do.
    pub fn bind(address: SocketAddr) -> Result<Bound, String> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "--metrics {address}: the port is taken by another program or gateway; choose another"
                )
            }
            io::ErrorKind::PermissionDenied => {
                format!("--metrics {address}: ports below 1024 are for root; choose a higher one")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!(
                    "--metrics {address}: this machine has no such address; `:{}` listens on loopback",
                    address.port()
                )
            }
            _ => format!("--metrics {address}: {e}"),
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Bound(listener, address))
    }
}

impl Bound {
    /// Serves what `text` gives at each scrape; with none of it says 503.
    pub fn start(self, text: impl Fn() -> Option<String> + Send + 'static) -> io::Result<Exporter> {
        let Bound(listener, address) = self;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = worker::spawn("metrics", move || {
            while !stopped.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok(_) if stopped.load(Ordering::Acquire) => {}
                    Ok((stream, from)) => {
                        if let Err(e) = answer(stream, &text) {
                            log::debug!("metrics for {from}: {e}");
                        }
                    }
                    Err(e) => {
                        log::warn!("cannot accept on the metrics port: {e}");
                        worker::sleep(Duration::from_millis(200));
                    }
                }
            }
        })?;
        Ok(Exporter { address, stop, thread: Some(thread) })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Woken by a connection of our own; to any address is to this machine.
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let woken = TcpStream::connect_timeout(&SocketAddr::new(ip, self.address.port()), PATIENCE);
        if let Err(e) = woken {
            return log::debug!("the metrics thread is left to the end of the process: {e}");
        }
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            log::error!("the metrics thread panicked");
        }
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Metrics { head: bool },
    Page { head: bool },
    Nothing(&'static str),
}

/// The request, once it is whole.
fn parse(bytes: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Err(_) => Some(Asked::Nothing("400 Bad Request")),
        Ok(httparse::Status::Partial) if bytes.len() >= REQUEST_BYTES_MAX => {
            Some(Asked::Nothing("431 Request Header Fields Too Large"))
        }
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let head = match request.method {
                Some("GET") => false,
                Some("HEAD") => true,
                _ => return Some(Asked::Nothing("405 Method Not Allowed")),
            };
            let path = request.path.unwrap_or_default().split('?').next();
            Some(match path {
                Some("/metrics") => Asked::Metrics { head },
                Some("/") => Asked::Page { head },
                _ => Asked::Nothing("404 Not Found"),
            })
        }
    }
}

fn answer(mut stream: TcpStream, text: &dyn Fn() -> Option<String>) -> io::Result<()> {
    let start_ns = RealClock.monotonic_ns();
    let left = || {
        let spent = Duration::from_nanos(RealClock.monotonic_ns().saturating_sub(start_ns));
        // A timeout of zero would mean none at all.
        PATIENCE.saturating_sub(spent).max(Duration::from_millis(1))
    };
    let mut bytes = Vec::new();
    let asked = loop {
        let mut part = [0; 1024];
        stream.set_read_timeout(Some(left()))?;
        let n = stream.read(&mut part)?;
        if n == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&part[..n]);
        if let Some(asked) = parse(&bytes) {
            break asked;
        }
        if left() <= Duration::from_millis(1) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    };
    let (status, kind, head, body) = match asked {
        Asked::Metrics { head } => match text() {
            Some(text) => ("200 OK", CONTENT_TYPE, head, text),
            None => ("503 Service Unavailable", "text/plain", head, "the gateway is ending\n".into()),
        },
        Asked::Page { head } => ("200 OK", "text/plain", head, PAGE.into()),
        Asked::Nothing(why) => (why, "text/plain", false, format!("{why}\n{PAGE}")),
    };
    let mut out = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Allow: GET, HEAD\r\nX-Content-Type-Options: nosniff\r\n\r\n",
        body.len()
    );
    if !head {
        out.push_str(&body);
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut rest = out.as_bytes();
    let begin_ns = RealClock.monotonic_ns();
    while !rest.is_empty() {
        match stream.write(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => rest = &rest[n..],
        }
        if u128::from(RealClock.monotonic_ns().saturating_sub(begin_ns)) > PATIENCE.as_nanos() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // What is unread when a socket closes makes the kernel throw the answer away: a little of it is waited for.
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut rest = [0; REQUEST_BYTES_MAX];
    match stream.read(&mut rest) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    fn ask(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    }

    #[test]
    fn serves_metrics_and_refuses_the_rest() {
        let exporter = Exporter::bind(loopback()).unwrap().start(|| Some("x 1\n".into())).unwrap();
        let at = exporter.address;
        let said = ask(at, "GET /metrics?x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(said.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text"), "{said}");
        assert!(said.ends_with("\r\n\r\nx 1\n") && said.contains("Content-Length: 4\r\n"), "{said}");
        assert!(ask(at, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        for (request, status) in [
            ("GET / HTTP/1.0\r\n\r\n", "200"),
            ("GET /x HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            assert!(ask(at, request).starts_with(&format!("HTTP/1.1 {status} ")), "{request}");
        }
        let mut long = TcpStream::connect(at).unwrap();
        long.write_all(format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(REQUEST_BYTES_MAX)).as_bytes())
            .unwrap();
        let mut start = [0; 12];
        long.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 431");
    }

    #[test]
    fn a_taken_port_is_named_and_an_ended_one_is_free() {
        let exporter = Exporter::bind(loopback()).unwrap().start(|| None).unwrap();
        let at = exporter.address;
        assert!(ask(at, "GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
        let why = Exporter::bind(at).err().unwrap();
        assert!(why.contains("is taken") && why.contains(&at.to_string()), "{why}");
        // One that says nothing holds up neither the others for long nor the end.
        let _silent = TcpStream::connect(at).unwrap();
        assert!(ask(at, "GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
        drop(exporter);
        Exporter::bind(at).unwrap();
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
