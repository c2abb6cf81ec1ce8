//! Waiting for a value with a deadline. This is the one place where a test of real processes looks at a clock or sleeps.

use std::time::{Duration, Instant};

/// Pause between two looks at a value: short against anything a test waits for, long against the cost of looking.
const POLL_PAUSE: Duration = Duration::from_millis(5);

/// A moment by which something has to have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    began: Instant,
    within: Duration,
}

impl Deadline {
    /// `within` from now.
    #[must_use]
    pub fn after(within: Duration) -> Self {
        Self { began: now(), within }
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        now() - self.began
    }

    /// Whether it is over.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.elapsed() >= self.within
    }
}

/// The first `Some` of `value`, or `None` at the deadline; `value` is asked at least once, and once more at the end.
pub fn poll<T>(within: Duration, mut value: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Deadline::after(within);
    loop {
        let over = deadline.passed();
        let found = value();
        if found.is_some() || over {
            return found;
        }
        pause(POLL_PAUSE);
    }
}

/// The first `Some` of `value`.
///
/// # Panics
/// At the deadline, naming `what` the test waited for.
pub fn wait_for<T>(what: &str, within: Duration, value: impl FnMut() -> Option<T>) -> T {
    poll(within, value).unwrap_or_else(|| panic!("waited {within:?} in vain for {what}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "real processes take real time; the simulator has the virtual kind"
)]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a condition, which has a deadline"
)]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_awaited_and_a_deadline_ends_it() {
        let mut looks = 0;
        let found = wait_for("the third look", Duration::from_mins(1), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found, 3);
        assert_eq!(poll(Duration::ZERO, || None::<u8>), None);
        assert_eq!(poll(Duration::ZERO, || Some(1)), Some(1), "the value is asked before the clock");
    }
}
