//! The admin endpoint: a small HTTP/1.1 server for `/metrics`, `/healthz` and `/readyz`.
//!
//! It stands beside the data path: one thread accepts, each connection is served by a short-lived thread, at most [`CONNECTIONS_MAX`] at a time, and has
//! [`REQUEST_TIMEOUT`] to send its request. One connection is one request. A slow or silent peer holds its own thread and nothing else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tracing::{debug, warn};
use wire::Nanos;

use crate::start::nanoseconds;

/// Connections served at a time; others get 503.
const CONNECTIONS_MAX: usize = 32;
/// Bytes of a request's head, at most.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Time for a whole request to arrive, and as much for its answer to leave.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// After a connection that couldn't be accepted, for want of descriptors perhaps: without it the thread would try without end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the endpoint shows.
pub(crate) trait Inspect: Send + Sync + 'static {
    /// Prometheus text.
    fn metrics(&self) -> String;
    /// Whether the node lives: every thread answers. The text says what doesn't.
    fn health(&self) -> Result<(), String>;
    /// Whether the node takes requests. The text says why not.
    fn ready(&self) -> Result<(), String>;
}

/// The running endpoint; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
}

impl Admin {
    /// Listens on `address` and serves what `inspect` says.
    pub(crate) fn start(address: SocketAddr, inspect: Arc<dyn Inspect>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        runtime::spawn_thread("admin", None, move || accept(&listener, &inspect, &stop))?;
        Ok(Self { address, stopping })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // The accepting thread sleeps in `accept`: one last connection wakes it.
        if let Err(error) = TcpStream::connect_timeout(&self.address, REQUEST_TIMEOUT) {
            debug!(%error, "the admin endpoint was closed already");
        }
    }
}

fn accept(listener: &TcpListener, inspect: &Arc<dyn Inspect>, stopping: &AtomicBool) {
    let active = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        if stopping.load(Ordering::Acquire) {
            return;
        }
        let mut stream = match connection {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "cannot accept an admin connection");
                std::thread::park_timeout(ACCEPT_PAUSE);
                continue;
            }
        };
        if active.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            active.fetch_sub(1, Ordering::AcqRel);
            let answer = response(503, "text/plain", "too many connections to the admin endpoint\n");
            if let Err(error) = stream.write_all(answer.as_bytes()) {
                debug!(%error, "an admin connection went away");
            }
            continue;
        }
        let (inspect, active_here) = (Arc::clone(inspect), Arc::clone(&active));
        let spawned = runtime::spawn_thread("admin-request", None, move || {
            if let Err(error) = serve(&stream, inspect.as_ref(), REQUEST_TIMEOUT) {
                debug!(%error, "an admin connection went away");
            }
            active_here.fetch_sub(1, Ordering::AcqRel);
        });
        if let Err(error) = spawned {
            active.fetch_sub(1, Ordering::AcqRel);
            warn!(%error, "cannot start a thread for an admin request");
        }
    }
}

fn serve(stream: &TcpStream, inspect: &dyn Inspect, timeout: Duration) -> io::Result<()> {
    let head = read_head(stream, Deadline::new(timeout))?;
    let request_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let request_line = String::from_utf8_lossy(request_line);
    let mut words = request_line.trim_end().split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let answer = answer(method, target, inspect);
    write_whole(stream, answer.as_bytes(), Deadline::new(timeout))
}

/// When a peer's time is up, however busy it looks: a byte every few seconds would hold a place for hours.
#[derive(Clone, Copy)]
struct Deadline(Nanos);

impl Deadline {
    fn new(timeout: Duration) -> Self {
        Self(runtime::clock::now().after(nanoseconds(timeout)))
    }

    /// What is left, as a socket's timeout.
    fn left(self) -> io::Result<Option<Duration>> {
        match self.0.since(runtime::clock::now()) {
            0 => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(Duration::from_nanos(left))),
        }
    }
}

/// The request up to the empty line, or as much as the peer sends of it.
fn read_head(mut stream: &TcpStream, deadline: Deadline) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while head.len() < REQUEST_BYTES_MAX {
        stream.set_read_timeout(deadline.left()?)?;
        let count = stream.read(&mut piece)?;
        head.extend_from_slice(&piece[..count]);
        let ends = |end: &[u8]| head.windows(end.len()).any(|window| window == end);
        if count == 0 || ends(b"\r\n\r\n") || ends(b"\n\n") {
            break;
        }
    }
    Ok(head)
}

fn write_whole(mut stream: &TcpStream, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(deadline.left()?)?;
        match stream.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

fn answer(method: &str, target: &str, inspect: &dyn Inspect) -> String {
    if method != "GET" && method != "HEAD" {
        return response(405, "text/plain", "only GET is answered here\n");
    }
    let whole = match target.split('?').next().unwrap_or("") {
        "/metrics" => response(200, "text/plain; version=0.0.4; charset=utf-8", &inspect.metrics()),
        "/healthz" => verdict(inspect.health()),
        "/readyz" => verdict(inspect.ready()),
        "/" => response(200, "text/plain", "Catena: /metrics /healthz /readyz\n"),
        _ => response(404, "text/plain", "there are /metrics, /healthz and /readyz here\n"),
    };
    let head_end = whole.find("\r\n\r\n").map_or(whole.len(), |at| at + 4);
    if method == "HEAD" { whole[..head_end].to_owned() } else { whole }
}

fn verdict(result: Result<(), String>) -> String {
    match result {
        Ok(()) => response(200, "text/plain", "ok\n"),
        Err(reason) => response(503, "text/plain", &format!("{reason}\n")),
    }
}

fn response(code: u16, content_type: &str, body: &str) -> String {
    let reason = match code {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample;

    impl Inspect for Sample {
        fn metrics(&self) -> String {
            "catena_up 1\n".into()
        }

        fn health(&self) -> Result<(), String> {
            Ok(())
        }

        fn ready(&self) -> Result<(), String> {
            Err("shard 0 is recovering".into())
        }
    }

    #[test]
    fn answers_by_method_and_target() {
        for (method, target, start, end) in [
            ("GET", "/metrics", "HTTP/1.1 200 ", "\r\n\r\ncatena_up 1\n"),
            ("HEAD", "/metrics", "HTTP/1.1 200 ", "\r\n\r\n"),
            ("GET", "/healthz", "HTTP/1.1 200 ", "ok\n"),
            ("GET", "/readyz", "HTTP/1.1 503 ", "shard 0 is recovering\n"),
            ("GET", "/nothing", "HTTP/1.1 404 ", "here\n"),
            ("POST", "/metrics", "HTTP/1.1 405 ", "here\n"),
            ("", "", "HTTP/1.1 405 ", "here\n"),
        ] {
            let text = answer(method, target, &Sample);
            assert!(text.starts_with(start) && text.ends_with(end), "{method} {target}: {text}");
        }
    }

    /// The time was one for each read: 8 KiB, a byte every four seconds, held one of 32 places for nine hours.
    #[test]
    fn a_dripping_request_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (stream, _) = listener.accept().expect("accepted");
        let (sender, outcome) = std::sync::mpsc::channel();
        runtime::spawn_thread("served", None, move || {
            let outcome = serve(&stream, &Sample, Duration::from_millis(300));
            sender.send(outcome.is_err()).expect("somebody waits");
        })
        .expect("a thread");
        // Each byte is in time; all of them aren't.
        let mut sent = 0;
        let failed = loop {
            match outcome.recv_timeout(Duration::from_millis(20)) {
                Ok(failed) => break failed,
                Err(_) => drop(peer.write(b"x")),
            }
            sent += 1;
            assert!(sent < 3000, "it goes on as long as bytes come");
        };
        assert!(failed, "no answer to what never came whole");
    }

    #[test]
    fn serves_over_a_socket_and_stops() {
        let admin =
            Admin::start("127.0.0.1:0".parse().expect("an address"), Arc::new(Sample)).expect("listens");
        let mut stream = TcpStream::connect(admin.address()).expect("connects");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answered");
        assert!(text.ends_with("catena_up 1\n"));
    }
}
