//! When the log says that a store or the metadata is full, and that it takes everything again. Each is said once, however many requests are refused; what
//! swings between the two says it at most once a minute.

use wire::Nanos;

/// Between two warnings of one store.
const WARNING_NANOS: u64 = 60 * Nanos::SECOND;

/// What is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Puts are refused from now on.
    Full,
    /// They are taken again.
    Takes,
}

/// What was said last.
#[derive(Debug, Default)]
pub(crate) struct Fullness {
    is_told: bool,
    /// The last warning.
    warned: Option<Nanos>,
}

impl Fullness {
    /// What is new since the last time.
    pub(crate) fn news(&mut self, now: Nanos, is_full: bool) -> Option<News> {
        if is_full == self.is_told {
            return None;
        }
        if is_full && self.warned.is_some_and(|warned| now.since(warned) < WARNING_NANOS) {
            return None;
        }
        self.is_told = is_full;
        if is_full {
            self.warned = Some(now);
        }
        Some(if is_full { News::Full } else { News::Takes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `status` sent its reader to the log for why a store is full, and the log had nothing.
    #[test]
    fn it_is_said_once_and_a_store_that_swings_floods_nothing() {
        let mut fullness = Fullness::default();
        let mut at = |seconds: u64, is_full: bool| fullness.news(Nanos(seconds * Nanos::SECOND), is_full);
        assert_eq!(at(1, false), None, "a store that was never full says nothing");
        assert_eq!(at(2, true), Some(News::Full));
        assert_eq!(at(500, true), None, "once");
        assert_eq!(at(501, false), Some(News::Takes));
        assert_eq!(at(502, true), Some(News::Full));
        assert_eq!(at(503, false), Some(News::Takes));
        // It swings: neither is said before a minute has passed.
        for second in 504..560 {
            assert_eq!(at(second, second % 2 == 0), None);
        }
        assert_eq!(at(562, true), Some(News::Full));
    }
}
