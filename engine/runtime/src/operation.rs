//! Names of the operations in flight, and where they go.

use std::os::fd::{AsRawFd, OwnedFd};

/// What a completion belongs to; the low byte of its user data, the operation's number above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Nobody waits for it (a cancellation's own completion).
    Ignored,
    /// The thread's bell was rung.
    Bell,
    /// A listener accepted.
    Accept(u32),
    /// A link received.
    Receive(u32),
    /// A link sent.
    Send(u32),
    /// A link connected.
    Connect(u32),
    /// A file operation ended.
    Disk(u32),
    /// A time limit passed.
    Timeout,
}

impl Operation {
    /// The user data of its submission.
    pub(crate) fn user_data(self) -> u64 {
        let (kind, number) = match self {
            Self::Ignored => (0, 0),
            Self::Bell => (1, 0),
            Self::Accept(number) => (2, number),
            Self::Receive(number) => (3, number),
            Self::Send(number) => (4, number),
            Self::Connect(number) => (5, number),
            Self::Disk(number) => (6, number),
            Self::Timeout => (7, 0),
        };
        kind | u64::from(number) << 8
    }

    /// The operation of a completion.
    pub(crate) fn of(user_data: u64) -> Self {
        let number = u32::try_from(user_data >> 8).expect("user data is the kernel's copy of ours");
        match user_data & 0xff {
            0 => Self::Ignored,
            1 => Self::Bell,
            2 => Self::Accept(number),
            3 => Self::Receive(number),
            4 => Self::Send(number),
            5 => Self::Connect(number),
            6 => Self::Disk(number),
            7 => Self::Timeout,
            kind => unreachable!("operations have no kind {kind}"),
        }
    }
}

/// A descriptor as an operation names it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// A place of the registered table.
    Fixed(u32),
    /// A plain descriptor.
    Plain(i32),
}

impl Target {
    pub(crate) fn new(fd: &OwnedFd, fixed: Option<u32>) -> Self {
        fixed.map_or_else(|| Self::Plain(fd.as_raw_fd()), Self::Fixed)
    }
}

/// Builds an entry for either kind of [`Target`].
macro_rules! on_target {
    ($target:expr, |$fd:ident| $entry:expr) => {
        match $target {
            $crate::operation::Target::Fixed(place) => {
                let $fd = io_uring::types::Fixed(place);
                $entry
            }
            $crate::operation::Target::Plain(raw) => {
                let $fd = io_uring::types::Fd(raw);
                $entry
            }
        }
    };
}
pub(crate) use on_target;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for operation in [
            Operation::Ignored,
            Operation::Bell,
            Operation::Accept(0),
            Operation::Receive(u32::MAX),
            Operation::Send(7),
            Operation::Connect(8),
            Operation::Disk(9),
            Operation::Timeout,
        ] {
            assert_eq!(Operation::of(operation.user_data()), operation);
        }
    }
}
