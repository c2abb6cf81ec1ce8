//! What a command over many things did, and how it ends: whole, in part, or not at all.

use crate::failure::{Exit, Failure, Result};
use crate::output::Output;
use crate::text;

/// Successes and failures so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    done: u64,
    failed: u64,
    first: Option<Failure>,
    mixed: bool,
}

impl Tally {
    /// One thing went well.
    pub(crate) fn done(&mut self) {
        self.done += 1;
    }

    /// Takes one result: a failure is printed and counted, one that ends the whole command is handed back.
    pub(crate) fn take(&mut self, output: &Output, result: Result<()>) -> Result<()> {
        match result {
            Ok(()) => self.done(),
            Err(failure) if failure.is_final() => return Err(failure),
            Err(failure) => {
                output.failure(&failure);
                self.fail(failure);
            }
        }
        Ok(())
    }

    /// How many failures there were.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// Counts a failure that was printed.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        match &self.first {
            Some(first) => self.mixed |= first.exit != failure.exit,
            None => self.first = Some(failure),
        }
    }

    /// How the command ends: with `Partial` where some things were done and some not, with the failures' own code where all failed alike.
    pub(crate) fn finish(self, what: &str) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        let all = self.done + self.failed;
        if all == 1 {
            return Err(first.printed());
        }
        let exit = match first.exit {
            _ if self.done > 0 => Exit::Partial,
            _ if self.mixed => Exit::Failed,
            exit => exit,
        };
        let summary = match self.done {
            0 => format!("all {} failed", text::count(all, what)),
            _ => format!("{} of {} failed", text::size::grouped(self.failed), text::count(all, what)),
        };
        Err(Failure::new(exit, "", summary).next("mend what is named above, then run the same command again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whole_part_or_nothing() {
        let failure = |exit| Failure::new(exit, "x", "y");
        let tally = |done, failures: &[Exit]| {
            let mut tally = Tally { done, ..Tally::default() };
            for exit in failures {
                tally.fail(failure(*exit));
            }
            tally.finish("file").map_err(|failure| failure.exit)
        };
        assert_eq!(tally(3, &[]), Ok(()));
        assert_eq!(tally(0, &[Exit::NotFound, Exit::NotFound]), Err(Exit::NotFound));
        assert_eq!(tally(0, &[Exit::NotFound, Exit::Denied]), Err(Exit::Failed));
        assert_eq!(tally(1, &[Exit::NotFound]), Err(Exit::Partial));
    }
}
