//! The admin endpoint: a small HTTP/1.1 server for `/metrics`, `/healthz` and `/readyz`.
//!
//! It stands beside the data path: one thread accepts, each connection is served by a short-lived thread, at most [`CONNECTIONS_MAX`] at a time, and has
//! [`REQUEST_TIMEOUT`] to send its request. One connection is one request. A slow or silent peer holds its own thread and nothing else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tracing::{debug, warn};

/// Connections served at a time; others get 503.
const CONNECTIONS_MAX: usize = 32;
/// Bytes of a request's head, at most.
const REQUEST_BYTES_MAX: u64 = 8 << 10;
/// Time for a request to arrive and for its answer to leave.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

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
        let Ok(mut stream) = connection else {
            continue;
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
            if let Err(error) = serve(&stream, inspect.as_ref()) {
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

fn serve(stream: &TcpStream, inspect: &dyn Inspect) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let mut head = BufReader::new(stream.take(REQUEST_BYTES_MAX));
    let mut request_line = String::new();
    head.read_line(&mut request_line)?;
    let mut header = String::new();
    while head.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut words = request_line.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut writer = stream;
    writer.write_all(answer(method, target, inspect).as_bytes())
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
