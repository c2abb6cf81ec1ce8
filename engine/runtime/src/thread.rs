//! Making a thread: pinned, with an executor, a uring, an arena and a service; and the handle to it.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use thiserror::Error;

use crate::arena::{Arena, ArenaError, PIECE_BYTES};
use crate::config::ThreadConfig;
use crate::driver::Driver;
use crate::heads::HeadBuffers;
use crate::io::{FILES_MAX, Io};
use crate::ring::{Ring, RingError};
use crate::service::Service;
use crate::sys;
use crate::wake::Wake;

/// Why a thread didn't start. Each cause has a message of its own, with the mend in it.
#[derive(Debug, Error)]
pub enum StartError {
    /// io_uring is forbidden, too old, or can't be set up.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// There is no memory for I/O.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The executor can't be made.
    #[error("the executor can't be started: {0}")]
    Executor(String),
    /// The system makes no more threads, or descriptors.
    #[error("the thread can't be started: {0}")]
    Thread(#[from] std::io::Error),
    /// It ended while it started; its own panic message says why.
    #[error("the thread ended while it started")]
    Died,
}

/// A running thread. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct ThreadHandle {
    wake: Arc<Wake>,
    thread: JoinHandle<()>,
}

impl ThreadHandle {
    /// Asks the service to stop ([`Service::on_stop`]). Returns at once.
    pub fn stop(&self) {
        self.wake.stop();
    }

    /// Waits until the thread has ended; `Err`: it panicked.
    pub fn join(self) -> std::thread::Result<()> {
        self.thread.join()
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts a thread with a service, which `make` builds there. Returns when the service is built and the thread runs.
pub fn serve<S: Service + 'static>(
    config: ThreadConfig,
    make: impl FnOnce(&mut Io) -> S + Send + 'static,
) -> Result<ThreadHandle, StartError> {
    let wake = Arc::new(Wake::new()?);
    let (started, start) = mpsc::sync_channel(1);
    let for_thread = Arc::clone(&wake);
    let name = config.name.clone();
    let thread = spawn_thread(&name, None, move || {
        if let Some(cpu) = config.cpu {
            pin(&config.name, cpu);
        }
        let executor = match make_executor(&config) {
            Ok(executor) => executor,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        executor.run(async move {
            match start_here(&config, for_thread, make) {
                Ok(driver) => {
                    let _ = started.send(Ok(()));
                    driver.run().await;
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        });
    })?;
    match start.recv() {
        Ok(Ok(())) => Ok(ThreadHandle { wake, thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Died),
    }
}

/// Starts a named thread, bound to a CPU where one is given. Being unable to bind is reported and harmless.
pub fn spawn_thread(
    name: &str,
    cpu: Option<usize>,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let owned = name.to_owned();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(cpu) = cpu {
            pin(&owned, cpu);
        }
        body();
    })
}

fn pin(name: &str, cpu: usize) {
    if let Err(error) = sys::pin(cpu) {
        tracing::warn!(thread = name, cpu, %error, "the thread can't be bound to its CPU and runs on any");
    }
}

fn start_here<S: Service>(
    config: &ThreadConfig,
    wake: Arc<Wake>,
    make: impl FnOnce(&mut Io) -> S,
) -> Result<Driver<S>, StartError> {
    sys::exact_timers();
    let mut ring = Ring::new(config.ring_entries)?;
    ring.register_self();
    let heads = HeadBuffers::new(&mut ring)?;
    let mut arena = Arena::new(config.arena_bytes)?;
    register_arena(&mut ring, &mut arena);
    let table = register_table(&mut ring, config);
    let mut io = Io::new(config, ring, arena, wake, table);
    let service = make(&mut io);
    Ok(Driver::new(io, heads, service, config.spin))
}

/// The least limit of locked memory: glommio refuses to start below it, whoever it runs for.
pub const LOCKED_MEMORY_BYTES_MIN: u64 = 512 << 10;
/// Memory that glommio registers for direct I/O of its own, of which there is none here. Registered memory counts against the limit of locked memory.
const EXECUTOR_MEMORY_BYTES: usize = 1 << 20;

fn make_executor(config: &ThreadConfig) -> Result<glommio::LocalExecutor, StartError> {
    let (limit, _) = sys::memlock_limit();
    if limit < LOCKED_MEMORY_BYTES_MIN {
        return Err(RingError::LockedMemory { limit }.into());
    }
    // glommio's own error for a forbidden io_uring says little: ask first.
    Ring::new(2)?;
    glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
        .name(&config.name)
        .io_memory(EXECUTOR_MEMORY_BYTES)
        .make()
        .map_err(|error| StartError::Executor(error.to_string()))
}

/// Registers the arena with the uring, which it must outlive; without enough lockable memory it says so once and does without.
pub(crate) fn register_arena(ring: &mut Ring, arena: &mut Arena) {
    let (start, bytes) = arena.span();
    let pieces: Vec<_> = (0..bytes)
        .step_by(PIECE_BYTES)
        .map(|at| libc::iovec {
            iov_base: start.wrapping_add(at).cast(),
            iov_len: PIECE_BYTES.min(bytes - at),
        })
        .collect();
    // SAFETY: the arena lives beside the uring in `Io`, declared after it, so it is unmapped later.
    let result = unsafe { ring.register_buffers(&pieces) };
    arena.set_registered(result.is_ok());
    if let Err(error) = result {
        static TOLD: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        if !TOLD.swap(true, std::sync::atomic::Ordering::Relaxed) {
            tracing::warn!(
                bytes, limit = sys::memlock_limit().0, %error,
                "I/O memory can't be registered with io_uring: works, at about a fifth more CPU per I/O \
                 (raise the limit of locked memory: `ulimit -l`, systemd LimitMEMLOCK=infinity)"
            );
        }
    }
}

/// Registers a table for files and links; smaller than wanted where the limit of open files is small. Returns its places.
fn register_table(ring: &mut Ring, config: &ThreadConfig) -> u32 {
    let (open_files, _) = sys::open_files_limit();
    let wanted = FILES_MAX as usize + config.links.links_cap;
    let places = u32::try_from(open_files).unwrap_or(u32::MAX).min(u32::try_from(wanted).unwrap_or(u32::MAX));
    match ring.register_file_table(places) {
        Ok(()) => places,
        Err(error) => {
            tracing::debug!(%error, places, "no table of registered descriptors");
            0
        }
    }
}
