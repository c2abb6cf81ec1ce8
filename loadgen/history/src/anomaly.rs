//! What can be wrong with a history.

use std::fmt;

/// What kind of thing can't have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A read saw an older state than one that had been seen before it began.
    Stale,
    /// An acknowledged change isn't there any more, and nothing took it away.
    Lost,
    /// A read saw bytes of several versions as one.
    Torn,
    /// A read saw bytes that nobody wrote.
    Corrupt,
    /// Something that was removed or replaced is there again.
    Resurrected,
    /// An operation that was answered as failed took effect.
    TookEffect,
    /// An operation took effect twice.
    Double,
    /// Commit indices contradict the order in time.
    Order,
    /// Something was seen that no operation of the history made.
    Foreign,
    /// No order of the operations explains the answers.
    Impossible,
}

impl Class {
    /// All classes, in order.
    pub const ALL: [Self; 10] = [
        Self::Stale,
        Self::Lost,
        Self::Torn,
        Self::Corrupt,
        Self::Resurrected,
        Self::TookEffect,
        Self::Double,
        Self::Order,
        Self::Foreign,
        Self::Impossible,
    ];

    /// Its name, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Lost => "lost",
            Self::Torn => "torn",
            Self::Corrupt => "corrupt",
            Self::Resurrected => "resurrected",
            Self::TookEffect => "failed but took effect",
            Self::Double => "took effect twice",
            Self::Order => "out of order",
            Self::Foreign => "of no known writer",
            Self::Impossible => "impossible",
        }
    }
}

/// Something that can't have happened, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// What kind.
    pub class: Class,
    /// At which path.
    pub path: String,
    /// Who saw it, and what was there instead.
    pub text: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class.name(), self.text)
    }
}
