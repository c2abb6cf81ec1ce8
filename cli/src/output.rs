//! What a command prints: lines for people or JSON objects on standard output, failures and notes on standard error.
//!
//! Only the main thread prints. A closed pipe ends a command that only reads, quietly; a command that changes something goes on
//! without its output, so that `catena rm -r … | head` doesn't stop half way.

use std::cell::RefCell;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use clap::builder::StyledStr;

use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::text::quote;

/// Bytes collected before they are written to a pipe or file.
const BUFFER_BYTES: usize = 64 << 10;

/// What happens when nobody reads the output any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenClosed {
    /// The command was only printing: it ends.
    End,
    /// The command changes something: it goes on.
    GoOn,
}

/// The command's output.
#[derive(Debug)]
pub(crate) struct Output {
    out: RefCell<BufWriter<Stdout>>,
    json: bool,
    quiet: bool,
    terminal: bool,
    when_closed: WhenClosed,
    closed: bool,
}

impl Output {
    /// Output to this process's standard output.
    pub(crate) fn new(json: bool, quiet: bool, when_closed: WhenClosed) -> Self {
        let out = io::stdout();
        let terminal = out.is_terminal();
        Self {
            out: RefCell::new(BufWriter::with_capacity(BUFFER_BYTES, out)),
            json,
            quiet,
            terminal,
            when_closed,
            closed: false,
        }
    }

    /// Whether JSON is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person looks at the output.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A name as it is printed: on a terminal so that it can do no harm, elsewhere its very bytes.
    pub(crate) fn name(&self, name: &[u8]) -> Vec<u8> {
        if self.terminal { quote(name).into_bytes() } else { name.to_vec() }
    }

    /// One result: an object or, for people, a line.
    pub(crate) fn result(
        &mut self,
        object: impl FnOnce() -> Object,
        line: impl FnOnce(&Self) -> Vec<u8>,
    ) -> Result<()> {
        let mut bytes = if self.json { object().line().into_bytes() } else { line(self) };
        bytes.push(b'\n');
        self.bytes(&bytes)
    }

    /// Something done that a person may like to read; nothing with `--quiet`.
    pub(crate) fn note(
        &mut self,
        object: impl FnOnce() -> Object,
        line: impl FnOnce() -> String,
    ) -> Result<()> {
        if self.quiet && !self.json {
            return Ok(());
        }
        self.result(object, |_| line().into_bytes())
    }

    /// A line for people alone.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        if self.json || self.quiet {
            return Ok(());
        }
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(b'\n');
        self.bytes(&bytes)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let out = self.out.get_mut();
        let written = out.write_all(bytes);
        let written = if self.terminal { written.and_then(|()| out.flush()) } else { written };
        self.check(written)
    }

    /// Writes out what is still held.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let written = self.out.get_mut().flush();
        self.check(written)
    }

    /// Prints a failure to standard error, behind the results that came before it.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.catch_up();
        report(failure, self.json);
    }

    /// Prints a warning to standard error.
    pub(crate) fn warn(&self, text: &str) {
        self.catch_up();
        let line = if self.json {
            Object::new().with("warning", text).line()
        } else {
            format!("catena: warning: {text}")
        };
        stderr_line(&line);
    }

    /// Writes out what is held, so that both streams are in order where they go to the same place. What fails here fails again at
    /// the end, where it is told.
    fn catch_up(&self) {
        drop(self.out.borrow_mut().flush());
    }

    fn check(&mut self, written: io::Result<()>) -> Result<()> {
        let Err(error) = written else { return Ok(()) };
        let failure = Failure::stdout(&error);
        if failure.exit == Exit::ClosedPipe && self.when_closed == WhenClosed::GoOn {
            self.closed = true;
            return Ok(());
        }
        self.closed = true;
        Err(failure)
    }
}

/// Prints a failure to standard error: text, or with `json` one object.
pub(crate) fn report(failure: &Failure, json: bool) {
    if failure.is_silent() {
        return;
    }
    stderr_line(&if json { failure.to_json().line() } else { format!("catena: {failure}") });
}

/// What the parser says, with its colours on a terminal unless the user wants none.
pub(crate) fn painted(said: &StyledStr, is_terminal: bool) -> String {
    let is_plain = !is_terminal || std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    if is_plain { said.to_string() } else { said.ansi().to_string() }
}

/// Prints what the parser says of a command line, in its colours on a terminal. Its last line, which says where help is and not whose, becomes `last`.
pub(crate) fn refuse(said: &StyledStr, last: &str) {
    let text = painted(said, io::stderr().is_terminal());
    let text = match text.rsplit_once("For more information") {
        Some((before, _)) => format!("{before}{last}"),
        None => text.trim_end().to_owned(),
    };
    stderr_line(&text);
}

/// One line to standard error, at once; a standard error that is closed loses it.
fn stderr_line(line: &str) {
    drop(io::stderr().lock().write_all(format!("{line}\n").as_bytes()));
}

/// Asks a question on the terminal; `false` for anything but yes. Without a terminal nobody is asked, and the answer is yes: a
/// script says what it means by its arguments.
pub(crate) fn confirm(question: &str) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(true);
    }
    // The lock is given back before the answer is waited for: a signal's thread says that the command was interrupted, and then ends it.
    drop(io::stderr().lock().write_all(format!("{question} [y/N] ").as_bytes()));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| Failure::io("standard input", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}
