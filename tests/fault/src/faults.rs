//! Which fault strikes which operation.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read fails with EIO.
    ReadError,
    /// A write fails with EIO; nothing of it is written.
    WriteError,
    /// A flush fails with EIO; what it should have flushed stays volatile.
    FlushError,
    /// A flush is acknowledged and flushes nothing: a disk outside the model, to check the checkers with.
    LostFlush,
    /// A write or an allocation fails with ENOSPC.
    NoSpace,
    /// The file system says that nothing is free, whatever there is.
    NoRoom,
    /// A write is acknowledged and lost.
    LostWrite,
    /// One bit of what a read returns is flipped; the data at rest is right.
    FlippedRead,
}

/// The kinds with their names in the control protocol.
const NAMES: &[(Kind, &str)] = &[
    (Kind::ReadError, "read-error"),
    (Kind::WriteError, "write-error"),
    (Kind::FlushError, "flush-error"),
    (Kind::LostFlush, "lost-flush"),
    (Kind::NoSpace, "no-space"),
    (Kind::NoRoom, "no-room"),
    (Kind::LostWrite, "lost-write"),
    (Kind::FlippedRead, "flipped-read"),
];

impl Kind {
    /// Its name in the control protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(kind, _)| *kind).ok_or_else(|| format!("no fault is called {text}"))
    }
}

/// A fault and when it strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// How many operations pass before it strikes.
    pub after: u64,
    /// How often it strikes; `None` is always.
    pub times: Option<u64>,
    /// Part of the path of the files it strikes; empty is all.
    pub part: String,
}

impl Fault {
    /// A fault that strikes every operation of its kind.
    #[must_use]
    pub fn always(kind: Kind) -> Self {
        Self { kind, after: 0, times: None, part: String::new() }
    }

    /// A fault that strikes once.
    #[must_use]
    pub fn once(kind: Kind) -> Self {
        Self { times: Some(1), ..Self::always(kind) }
    }

    /// The same, for files whose path contains `part` only.
    #[must_use]
    pub fn on(self, part: &str) -> Self {
        Self { part: part.to_owned(), ..self }
    }

    /// The same, after `count` operations that pass.
    #[must_use]
    pub fn after(self, count: u64) -> Self {
        Self { after: count, ..self }
    }
}

/// How long each operation takes beside its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Of a read.
    pub read: Duration,
    /// Of a write.
    pub write: Duration,
    /// Of a flush.
    pub flush: Duration,
}

/// The faults that are set.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    set: Vec<Fault>,
    /// Delays.
    pub delays: Delays,
    struck: u64,
}

impl Faults {
    /// Sets one more.
    pub fn set(&mut self, fault: Fault) {
        self.set.push(fault);
    }

    /// Ends all of them; what they did stays done.
    pub fn heal(&mut self) {
        self.set.clear();
        self.delays = Delays::default();
    }

    /// How often a fault has struck.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.struck
    }

    /// Whether an operation on `path` is struck by a fault of this kind, which is then counted.
    pub fn strikes(&mut self, kind: Kind, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let concerned =
            |fault: &&mut Fault| fault.kind == kind && fault.times != Some(0) && path.contains(&fault.part);
        let Some(fault) = self.set.iter_mut().find(concerned) else { return false };
        if fault.after > 0 {
            fault.after -= 1;
            return false;
        }
        if let Some(times) = &mut fault.times {
            *times -= 1;
        }
        self.struck += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_as_often_as_they_say() {
        let mut faults = Faults::default();
        faults.set(Fault::once(Kind::WriteError).on("store").after(1));
        let mut strikes = |path: &str| faults.strikes(Kind::WriteError, Path::new(path));
        assert_eq!(
            [strikes("log"), strikes("store"), strikes("store"), strikes("store")],
            [false, false, true, false]
        );
        assert_eq!(faults.struck(), 1);
        faults.set(Fault::always(Kind::ReadError));
        assert!((0..3).all(|_| faults.strikes(Kind::ReadError, Path::new("x"))));
        assert!(!faults.strikes(Kind::FlushError, Path::new("x")));
        faults.heal();
        assert!(!faults.strikes(Kind::ReadError, Path::new("x")));
    }

    #[test]
    fn every_kind_has_a_name() {
        for (kind, name) in NAMES {
            assert_eq!((name.parse(), kind.name()), (Ok(*kind), *name));
        }
        assert!("other".parse::<Kind>().is_err());
    }
}
