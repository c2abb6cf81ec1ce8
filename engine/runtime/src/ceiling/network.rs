//! Bytes and messages over loopback TCP, with plain blocking sockets.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use wire::Memory;

use super::{Ceiling, CeilingError, Count, best};
use crate::arena::{Arena, PageKind};
use crate::{clock, spawn_thread, sys};

/// One kind of network load.
#[derive(Clone, Debug)]
pub struct NetworkLoad {
    /// Bytes of one message, or of one write of a stream.
    pub message_bytes: usize,
    /// Messages in flight; each is tried. A stream has no depth.
    pub depths: Vec<u32>,
    /// How long.
    pub time: Duration,
    /// CPUs of the sending and of the receiving side, where threads are to be bound.
    pub cpus: Option<(usize, usize)>,
}

/// The congestion control of connections over loopback, those that are measured here and all others of this crate.
pub fn loopback_congestion() -> io::Result<String> {
    let socket = sys::tcp_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    sys::congestion(socket.as_fd())
}

/// The rate of a one-way stream.
pub fn tcp_stream(load: &NetworkLoad) -> Result<Ceiling, CeilingError> {
    measure(load, 0, |sending, receiving, load, _| {
        let (mut out, mut into, bytes) = (sending.socket, receiving.socket, load.message_bytes);
        let time = load.time;
        let mut buffers = Buffers::new(bytes)?;
        let cpu = load.cpus.map(|(sender, _)| sender);
        let sender = spawn_thread("ceiling-send", cpu, move || {
            let Ok(mut buffers) = Buffers::new(bytes) else { return };
            let buffer = buffers.bytes(bytes);
            // Ends with an error, when the receiver has closed.
            while out.write_all(buffer).is_ok() {}
        })?;
        let begin = clock::now();
        let cpu_begin = sys::thread_cpu_nanoseconds();
        let limit = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut received = 0_u64;
        while clock::now().since(begin) < limit {
            received += into.read(buffers.bytes(bytes))? as u64;
        }
        let count = Count {
            operations: received / bytes as u64,
            bytes_each: bytes,
            nanoseconds: clock::now().since(begin),
            cpu_nanoseconds: sys::thread_cpu_nanoseconds() - cpu_begin,
            depth: 1,
        };
        drop(into);
        let _ = sender.join();
        Ok((count, buffers.huge))
    })
}

/// The rate of messages that are answered with as many bytes; the CPU time is the answering side's. `None`: no depths were given.
pub fn tcp_echo(load: &NetworkLoad) -> Result<Option<Ceiling>, CeilingError> {
    best(load.depths.iter().map(|&depth| {
        measure(load, depth, |asking, answering, load, depth| {
            let (mut client, mut server, bytes) = (asking.socket, answering.socket, load.message_bytes);
            let limit = u64::try_from(load.time.as_nanos()).unwrap_or(u64::MAX);
            let cpu = load.cpus.map(|(asker, _)| asker);
            let asker = spawn_thread("ceiling-ask", cpu, move || {
                let Ok(mut buffers) = Buffers::new(bytes) else { return };
                let buffer = buffers.bytes(bytes);
                let begin = clock::now();
                for _ in 0..depth {
                    if client.write_all(buffer).is_err() {
                        return;
                    }
                }
                while clock::now().since(begin) < limit {
                    if client.read_exact(buffer).and_then(|()| client.write_all(buffer)).is_err() {
                        return;
                    }
                }
            })?;
            let mut buffers = Buffers::new(bytes * depth as usize)?;
            let begin = clock::now();
            let cpu_begin = sys::thread_cpu_nanoseconds();
            let mut received = 0_u64;
            loop {
                let buffer = buffers.bytes(bytes * depth as usize);
                let len = match server.read(buffer) {
                    Ok(0) => break,
                    Ok(len) => len,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                    Err(error) => return Err(error.into()),
                };
                received += len as u64;
                if server.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
            let count = Count {
                operations: received / bytes as u64,
                bytes_each: bytes,
                nanoseconds: clock::now().since(begin),
                cpu_nanoseconds: sys::thread_cpu_nanoseconds() - cpu_begin,
                depth,
            };
            let _ = asker.join();
            Ok((count, buffers.huge))
        })
    }))
}

struct Side {
    socket: TcpStream,
}

/// Makes two connected sockets and measures on a thread of its own, bound to the receiving side's CPU.
fn measure(
    load: &NetworkLoad,
    depth: u32,
    body: impl FnOnce(Side, Side, &NetworkLoad, u32) -> Result<(Count, bool), CeilingError> + Send + 'static,
) -> Result<Ceiling, CeilingError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let active = TcpStream::connect(listener.local_addr()?)?;
    let (passive, _) = listener.accept()?;
    for socket in [&active, &passive] {
        socket.set_nodelay(true)?;
        sys::unpace_loopback(socket.as_fd(), socket.local_addr()?);
        // A measurement never hangs: a peer that is silent this long is gone.
        socket.set_read_timeout(Some(SILENCE_MAX))?;
        socket.set_write_timeout(Some(SILENCE_MAX))?;
    }
    let (told, result) = mpsc::channel();
    let owned = load.clone();
    let cpu = load.cpus.map(|(_, receiver)| receiver);
    let thread = spawn_thread("ceiling-recv", cpu, move || {
        let _ = told.send(body(Side { socket: active }, Side { socket: passive }, &owned, depth));
    })?;
    let measured = result.recv();
    let _ = thread.join();
    let (count, huge) = measured.map_err(|_| io::Error::other("the measuring thread ended early"))??;
    Ok(count.rates(huge, false))
}

const SILENCE_MAX: Duration = Duration::from_secs(5);

/// One buffer on 2 MiB pages.
struct Buffers {
    arena: Arena,
    slot: wire::Slot,
    huge: bool,
}

impl Buffers {
    fn new(bytes: usize) -> Result<Self, CeilingError> {
        let mut arena = Arena::new(bytes)?;
        let slot = arena.allocate(bytes).ok_or_else(|| io::Error::other("a buffer has at most 8 MiB"))?;
        let huge = arena.report().pages != PageKind::Small;
        Ok(Self { arena, slot, huge })
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.arena.bytes_mut(self.slot)[..len]
    }
}
