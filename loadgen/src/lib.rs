//! Load on a volume, whose every byte proves itself, and whose every operation can be told afterwards.
//!
//! [`run`] drives clients through the operations of a [`Profile`] until the time is up, verifies what they read, and says in a [`Report`] how
//! many operations there were, how long they took, and what was wrong. With a history (`history`'s format), checkers can say afterwards
//! whether all of it can have happened.
//!
//! - Each client has a connection and a session of its own, and goes on where an operation fails. Servers may come and go.
//! - All clients of a process are driven by the one thread that calls [`run`]: `driver` polls, `lane` is what one operation after the other
//!   looks like, and nothing is shared with locks. More processes may work on one directory.
//! - Contents are blocks that name their writer (`block`), so that *corrupt* and *torn* reads are known at once; *stale* and *lost* ones by what this
//!   process was told before (`known`), as far as it can tell. The history's checkers miss none.

#![forbid(unsafe_code)]

mod block;
mod driver;
mod known;
mod lane;
mod places;
mod profile;
mod random;
mod report;
mod run;

pub use profile::{BuiltIn, Keys, Profile, ProfileError, Sizes, Weights};
pub use report::{Counted, Kind, Latencies, Progress, Report, Wrong};
pub use run::{Options, RunError, run};
