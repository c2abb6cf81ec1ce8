//! The runtime: one thread = one glommio executor and one io_uring of our own, driving one [`Service`].
//!
//! A service is called when a frame's head, a payload, a file operation, mail or a deadline has come, and asks [`Io`] for sends,
//! receives and file operations in turn. Between the kernel and the service there is no future, no task and no allocation per
//! request: completions carry tokens. Everything that decides stays in pure crates; this is the only one that names glommio
//! and io_uring, and the only one with unsafe code.
//!
//! # Classes of unsafe code
//!
//! 1. **Buffer lifetime against completion** (`ring`, `disk`, `receive`, `driver`, `outbox`, `heads`): memory that an operation in flight
//!    points to is owned by a record which outlives its completion: a file operation's record and a link's phase hold slot
//!    references, a link owns its stash and batches and isn't freed while anything of it is in flight.
//! 2. **Registered memory** (`thread`, `heads`): the arena and the receive buffers are mapped for longer than the uring lives.
//! 3. **Disjoint slots** (`arena`, `background`): references to different slots of the one mapping may exist at once; a slot is
//!    reached through the arena, or by the one background buffer that owns it.
//! 4. **Descriptor ownership** (`sys`): each descriptor has one owner; the uring hands over accepted ones once.
//! 5. **System calls** (`sys`): pointers to local variables that outlive the call.
//! 6. **The allocator's contract** (`counting`), which is handed on to the system's allocator.
//!
//! The kernel writes to a slot while a receive or a read into it is in flight. Whoever looks at it meanwhile sees a mixture; nobody
//! does, since a slot is handed on only with the completion.

#![expect(unsafe_code, reason = "io_uring, memory maps and system calls; the classes are listed above")]

mod allocator;
mod arena;
mod background;
pub mod ceiling;
pub mod clock;
mod config;
mod counting;
mod disk;
mod driver;
mod heads;
mod io;
mod link;
mod mailbox;
mod operation;
mod outbox;
mod probe;
mod receive;
mod reply;
mod ring;
mod service;
mod spin;
mod store_file;
mod sweep;
mod sys;
mod tasks;
mod thread;
mod wake;

pub use allocator::SplitAllocator;
pub use arena::{Arena, ArenaError, ArenaReport, PageKind};
pub use background::{Background, BackgroundBuffer, BackgroundError, SpawnRefused, TaskId};
pub use config::{LinkLimits, ThreadConfig};
pub use counting::CountingAllocator;
pub use disk::RANGES_MAX;
pub use io::{Io, IoCounters};
pub use mailbox::{Receiver, Sender, mailbox};
pub use probe::{Probe, UringState, allowed_cpus, cpu_features_missing, probe, raise_open_files_limit};
pub use reply::{Replier, Reply, Unanswered, reply};
pub use ring::RingError;
pub use service::{
    CloseReason, FileId, IoOutcome, IoRefused, IoToken, LinkId, LinkKind, Payload, SendRefused, Service,
    SlotRange,
};
pub use store_file::{
    FileSystem, LOCK_WAIT, OpenFileError, StoreFile, file_system, sync_directory, takes_direct_io,
};
pub use thread::{LOCKED_MEMORY_BYTES_MIN, StartError, ThreadHandle, serve, spawn_thread};
