//! The thread's own uring: set-up with whatever the kernel offers, submission, one enter per turn, reaping.
//!
//! The kernel is entered by [`Ring::submit`] (hand over what is queued) and [`Ring::enter`] (the same, run deferred work and
//! perhaps wait) only. With `DEFER_TASKRUN` completions appear in `enter` alone, so a buffer never changes between two enters
//! but by a device that writes to it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode};
use thiserror::Error;

use crate::sys::{self, EnterRing};

/// Why a thread has no uring. Each has a message of its own, because each has another mend.
#[derive(Debug, Error)]
pub enum RingError {
    /// The kernel refuses io_uring to this process.
    #[error(
        "io_uring is forbidden here (EPERM): a seccomp filter or kernel.io_uring_disabled; containers need a profile \
         that allows io_uring_setup, io_uring_enter and io_uring_register, hosts `sysctl kernel.io_uring_disabled=0`"
    )]
    Forbidden,
    /// The kernel has no io_uring, or one without an operation that is needed.
    #[error("this kernel's io_uring is too old (Catena needs Linux 6.1 or newer): {missing} is missing")]
    TooOld {
        /// What is missing.
        missing: &'static str,
    },
    /// Locked memory is limited below what the executor needs at all.
    #[error(
        "the limit of locked memory ({limit} bytes) is too small for io_uring, at least 524288 are needed, and on many kernels what \
         this user's other processes have locked counts too: raise it \
         (`ulimit -l`, systemd: `LimitMEMLOCK=infinity`)"
    )]
    LockedMemory {
        /// The limit.
        limit: u64,
    },
    /// Something else failed while the uring was set up.
    #[error("setting up io_uring failed at {step}: {source}")]
    Setup {
        /// What was attempted.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl RingError {
    pub(crate) fn of_setup(source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOSYS) => Self::TooOld { missing: "io_uring" },
            Some(libc::ENOMEM) => Self::LockedMemory { limit: sys::memlock_limit().0 },
            _ => Self::Setup { step: "io_uring_setup", source },
        }
    }
}

/// How long [`Ring::enter`] stays in the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// Not at all: completions that are there are taken.
    No,
    /// Until something completes.
    Any {
        /// Nanoseconds at most; `None` is for ever.
        timeout: Option<u64>,
    },
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// What this kernel's io_uring offers beyond the necessary.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offered {
    /// Completions are delivered in `enter` alone.
    pub(crate) deferred: bool,
    /// Vectored I/O on registered buffers (6.15).
    pub(crate) vectored_fixed: bool,
}

/// The uring.
pub(crate) struct Ring {
    uring: IoUring,
    offered: Offered,
    /// Its descriptor's place among the thread's registered ones.
    registered: Option<u32>,
    enters: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("offered", &self.offered)
            .field("enters", &self.enters)
            .finish_non_exhaustive()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some(place) = self.registered {
            sys::unregister_ring(self.uring.as_raw_fd(), place);
        }
    }
}

impl Ring {
    /// A uring of `entries`, made by the thread that will use it.
    pub(crate) fn new(entries: u32) -> Result<Self, RingError> {
        let uring = build(entries)?;
        let probe = probe(&uring)?;
        if let Some(&(_, missing)) = NEEDED.iter().find(|&&(code, _)| !probe.is_supported(code)) {
            return Err(RingError::TooOld { missing });
        }
        let parameters = uring.params();
        let offered = Offered {
            deferred: parameters.is_setup_single_issuer(),
            vectored_fixed: probe.is_supported(opcode::WritevFixed::CODE),
        };
        if !parameters.is_feature_ext_arg() || !parameters.is_feature_nodrop() {
            return Err(RingError::TooOld { missing: "a wait with a time limit" });
        }
        Ok(Self { uring, offered, registered: None, enters: 0 })
    }

    /// Registers the uring's descriptor with the thread, which saves its lookup at each enter. (The crate's own function remembers it
    /// in a value that lives for one call.)
    pub(crate) fn register_self(&mut self) {
        match sys::register_ring(self.uring.as_raw_fd()) {
            Ok(place) => self.registered = Some(place),
            Err(error) => tracing::debug!(%error, "the uring's descriptor can't be registered"),
        }
    }

    pub(crate) fn offered(&self) -> Offered {
        self.offered
    }

    /// How often the kernel was entered.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Queues one operation; it is handed over by the next [`submit`](Self::submit) or [`enter`](Self::enter).
    ///
    /// # Safety
    ///
    /// All memory that the entry points to must stay valid, and unused by others where the kernel writes, until the entry's last
    /// completion was reaped; what is read while it is handed over only (addresses, time limits), until then.
    pub(crate) unsafe fn push(&mut self, entry: &Entry) {
        loop {
            let mut queue = self.uring.submission();
            // SAFETY: the caller's promise is the one that `push` asks for.
            if unsafe { queue.push(entry) }.is_ok() {
                return;
            }
            drop(queue);
            self.submit();
        }
    }

    /// Entries queued and not handed over.
    pub(crate) fn queued(&mut self) -> usize {
        self.uring.submission().len()
    }

    /// Whether `enter` would find completions: some are there, or work that makes them waits to be run.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty() || self.has_deferred()
    }

    /// Whether completions wait for an `enter` to be delivered.
    pub(crate) fn has_deferred(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Hands over what is queued; runs nothing else.
    pub(crate) fn submit(&mut self) {
        let queued = u32::try_from(self.queued()).expect("a queue has 32-bit entries");
        self.raw_enter(queued, 0, 0, None);
    }

    /// Hands over what is queued, runs deferred work, and waits.
    pub(crate) fn enter(&mut self, wait: Wait) {
        let queued = u32::try_from(self.queued()).expect("a queue has 32-bit entries");
        match wait {
            Wait::No => self.raw_enter(queued, 0, ENTER_GETEVENTS, None),
            Wait::Any { timeout } => self.raw_enter(queued, 1, ENTER_GETEVENTS, timeout),
        }
    }

    fn raw_enter(&mut self, queued: u32, wanted: u32, flags: u32, timeout: Option<u64>) {
        self.enters += 1;
        let ring = self.registered.map_or(EnterRing::Plain(self.uring.as_raw_fd()), EnterRing::Registered);
        // SAFETY: queued entries were promised to `push`.
        let result = unsafe { sys::enter_ring(ring, queued, wanted, flags, timeout) };
        let Err(error) = result else { return };
        match error.raw_os_error() {
            // Interrupted, timed out, completions to reap first, no memory for a request now: all are met by the next turn.
            Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => {}
            _ => panic!("io_uring_enter failed: {error}"),
        }
    }

    /// Moves completions into `into`, up to its capacity.
    pub(crate) fn reap(&mut self, into: &mut Vec<Completion>) {
        let mut queue = self.uring.completion();
        while into.len() < into.capacity() {
            let Some(entry) = queue.next() else { break };
            into.push(Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            });
        }
    }

    /// Makes each completion ring `bell`, while [`set_bell`](Self::set_bell) is on.
    pub(crate) fn register_bell(&mut self, bell: BorrowedFd<'_>) -> Result<(), RingError> {
        self.uring
            .submitter()
            .register_eventfd(bell.as_raw_fd())
            .map_err(|source| RingError::Setup { step: "registering an eventfd", source })?;
        self.set_bell(false);
        Ok(())
    }

    pub(crate) fn set_bell(&mut self, on: bool) {
        let queue = self.uring.completion();
        if on { queue.enable_eventfd() } else { queue.disable_eventfd() }
    }

    /// Registers memory for I/O without mapping it each time.
    ///
    /// # Safety
    ///
    /// The memory must stay mapped while the uring lives.
    pub(crate) unsafe fn register_buffers(&mut self, pieces: &[libc::iovec]) -> io::Result<()> {
        // SAFETY: promised by the caller.
        unsafe { self.uring.submitter().register_buffers(pieces) }
    }

    /// Registers a ring of provided buffers as `group`.
    ///
    /// # Safety
    ///
    /// `entries` places at `address`, page-aligned, must stay mapped while the uring lives.
    pub(crate) unsafe fn register_buffer_ring(
        &mut self,
        address: u64,
        entries: u16,
        group: u16,
    ) -> io::Result<()> {
        // SAFETY: promised by the caller.
        unsafe { self.uring.submitter().register_buf_ring_with_flags(address, entries, group, 0) }
    }

    /// A table of `count` empty places for registered descriptors.
    pub(crate) fn register_file_table(&mut self, count: u32) -> io::Result<()> {
        self.uring.submitter().register_files_sparse(count)
    }

    /// Puts a descriptor into the table, or (`None`) empties its place.
    pub(crate) fn register_file(&mut self, place: u32, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        self.uring.submitter().register_files_update(place, &[fd]).map(drop)
    }
}

fn build(entries: u32) -> Result<IoUring, RingError> {
    let invalid = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_submit_all().setup_cqsize(entries * 4);
    let common = builder.clone();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut newest = builder.clone();
    newest.setup_no_sqarray();
    let mut oldest = common;
    oldest.setup_coop_taskrun().setup_taskrun_flag();
    match newest.build(entries) {
        Err(error) if invalid(&error) => {}
        result => return result.map_err(RingError::of_setup),
    }
    match builder.build(entries) {
        Err(error) if invalid(&error) => {}
        result => return result.map_err(RingError::of_setup),
    }
    oldest.build(entries).map_err(|error| {
        if invalid(&error) {
            RingError::TooOld { missing: "cooperative task running" }
        } else {
            RingError::of_setup(error)
        }
    })
}

pub(crate) fn probe(uring: &IoUring) -> Result<Probe, RingError> {
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(|source| RingError::Setup { step: "asking for its operations", source })?;
    Ok(probe)
}

/// The operations that Catena can't do without.
pub(crate) const NEEDED: [(u8, &str); 16] = [
    (opcode::Nop::CODE, "nop"),
    (opcode::Read::CODE, "read"),
    (opcode::Write::CODE, "write"),
    (opcode::Readv::CODE, "readv"),
    (opcode::Writev::CODE, "writev"),
    (opcode::ReadFixed::CODE, "read_fixed"),
    (opcode::WriteFixed::CODE, "write_fixed"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::Accept::CODE, "accept"),
    (opcode::Connect::CODE, "connect"),
    (opcode::Recv::CODE, "recv"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::AsyncCancel::CODE, "async_cancel"),
    (opcode::Timeout::CODE, "timeout"),
];

/// `IORING_ENTER_GETEVENTS`; the crate keeps it to itself.
const ENTER_GETEVENTS: u32 = 1 << 0;
