//! Histories: what clients asked a volume for, what they were told and when; and whether that can have happened.
//!
//! [`Writer`] writes a history line by line, [`read`] reads one back ([`docs/history-format.md`] has the format), [`check`] runs two checkers over
//! the histories of one run and compares what they say:
//!
//! - `search`: a linearizability checker after Wing and Gong (1993) and Lowe (2017). It looks for an order of all operations that
//!   agrees with real time and with the sequential specification in `model`.
//! - `oracle`: one walk along the commit indices that the answers carry, in time linear in the history.
//!
//! Both take the history cut into *components*: paths that renames link, with all operations on them. What is checked and what
//! isn't stands at [`check`].
//!
//! **Invariant:** pure. It reads and writes where the caller says, and knows no clock, no thread and no randomness; the same
//! history gives the same verdict.
//!
//! [`docs/history-format.md`]: https://github.com/catena/catena/blob/main/docs/history-format.md

#![forbid(unsafe_code)]

mod anomaly;
mod check;
mod format;
mod json;
mod model;
mod oracle;
mod prepare;
mod record;
mod search;
#[cfg(test)]
mod tests;

pub use anomaly::{Anomaly, Class};
pub use check::{CheckError, Checked, Component, Verdict, check};
pub use format::{FORMAT_VERSION, FormatError, Header, History, LINE_BYTES_MAX, Writer, read};
pub use record::{Action, Answer, Listed, Outcome, Piece, Record, Stamp};
