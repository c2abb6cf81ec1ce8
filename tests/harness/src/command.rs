//! Running a command to its end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::deadline;

/// What a command may take if nothing else is said.
const WITHIN: Duration = Duration::from_mins(1);

/// A command to run: program, arguments, environment, input, deadline.
#[derive(Debug)]
pub struct Run {
    command: Command,
    line: String,
    input: Vec<u8>,
    within: Duration,
}

impl Run {
    /// `program`, without arguments yet.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let name = Path::new(program).file_name().unwrap_or(program);
        Self {
            command: Command::new(program),
            line: name.display().to_string(),
            input: Vec::new(),
            within: WITHIN,
        }
    }

    /// `catena` with the server at `endpoint`.
    ///
    /// # Panics
    /// If the binary can't be built.
    #[must_use]
    pub fn catena(endpoint: &str) -> Self {
        Self::new(crate::catena()).env("CATENA_ENDPOINT", endpoint)
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        for argument in arguments {
            self.line.push(' ');
            self.line.push_str(&argument.as_ref().display().to_string());
            self.command.arg(argument);
        }
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    /// Runs in `directory`.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Gives `input` on standard input; without it there is none.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Runs to the end. Input and output pass through files, so that no pipe can fill up.
    ///
    /// # Panics
    /// If the program can't be started or doesn't end in time.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.run_unless(&AtomicBool::new(false))
    }

    /// Like [`Self::run`], but the command is killed (SIGKILL) once `killed` is set.
    ///
    /// # Panics
    /// If the program can't be started or doesn't end in time.
    #[must_use]
    pub fn run_unless(mut self, killed: &AtomicBool) -> Outcome {
        let mut stdout = tempfile::tempfile().expect("a file for the output");
        let mut stderr = tempfile::tempfile().expect("a file for the messages");
        let stdin = if self.input.is_empty() { Stdio::null() } else { Stdio::from(input_file(&self.input)) };
        self.command.stdin(stdin).stdout(share(&stdout)).stderr(share(&stderr));
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.line));
        let mut dying = false;
        let status = wait(&mut child, self.within, |child| {
            if killed.load(Ordering::Relaxed) && !dying {
                dying = true;
                // It may have ended just now, which is as good.
                let _ = child.kill();
            }
        });
        let (stdout, stderr) = (contents(&mut stdout), contents(&mut stderr));
        let Some(status) = status else {
            let said = String::from_utf8_lossy(&stderr);
            panic!("`{}` didn't end within {:?}; it said:\n{said}", self.line, self.within);
        };
        Outcome { line: self.line, status, stdout, stderr }
    }
}

fn input_file(input: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file for the input");
    file.write_all(input).expect("the input is written");
    file.rewind().expect("a file has a beginning");
    file
}

fn share(file: &File) -> Stdio {
    Stdio::from(file.try_clone().expect("a descriptor more"))
}

fn contents(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("the output is readable");
    bytes
}

/// The child's status, or `None` once it was killed at the deadline; `meanwhile` is called now and then.
pub(crate) fn wait(
    child: &mut Child,
    within: Duration,
    mut meanwhile: impl FnMut(&mut Child),
) -> Option<ExitStatus> {
    let status = deadline::poll(within, || {
        meanwhile(child);
        child.try_wait().expect("a child can be waited for")
    });
    if status.is_none() {
        // It may have ended just now; either way it is gone after this.
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Outcome {
    line: String,
    status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Its exit code; a signal counts as 128 + its number, as shells have it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn messages(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Each line of standard output as JSON.
    ///
    /// # Panics
    /// If a line is no JSON.
    #[must_use]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let text = self.text();
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{self}\n{error} in: {line}"));
        text.lines().map(parse).collect()
    }

    /// This outcome if the code is `expected`.
    ///
    /// # Panics
    /// If it is another one, with all that the command said.
    #[expect(clippy::return_self_not_must_use, reason = "called for its check; the outcome comes as a bonus")]
    pub fn exits(self, expected: i32) -> Self {
        assert!(self.code() == expected, "{self}\nexpected exit code {expected}");
        self
    }

    /// This outcome if the command succeeded.
    ///
    /// # Panics
    /// If it didn't, with all that the command said.
    #[expect(clippy::return_self_not_must_use, reason = "called for its check; the outcome comes as a bonus")]
    pub fn ok(self) -> Self {
        self.exits(0)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// Output shown of a failed command.
        const SHOWN_BYTES_MAX: usize = 4096;
        let tail = |bytes: &[u8]| {
            let shown = &bytes[bytes.len().saturating_sub(SHOWN_BYTES_MAX)..];
            String::from_utf8_lossy(shown).into_owned()
        };
        writeln!(formatter, "`{}` ended with {}", self.line, self.code())?;
        write!(formatter, "--- output\n{}\n--- messages\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Run {
        Run::new("sh").args(["-c", script])
    }

    #[test]
    fn status_and_output_come_back() {
        let outcome = shell("cat; echo said >&2; exit 3").input("given").run();
        assert_eq!(
            (outcome.code(), outcome.text(), outcome.messages()),
            (3, "given".into(), "said\n".into())
        );
        assert_eq!(shell("kill -9 $$").run().code(), 137);
        assert_eq!(shell("cat").run().text(), "", "no input is an end, not a wait");
        assert_eq!(shell("echo '{\"v\":1}'").run().ok().json()[0]["v"], 1);
        let many = shell("head -c 1000000 /dev/zero").run();
        assert_eq!(many.stdout.len(), 1_000_000, "more than a pipe holds");
    }

    #[test]
    fn a_command_is_killed_when_it_should_be() {
        assert_eq!(shell("exec sleep 1000").run_unless(&AtomicBool::new(true)).code(), 137);
    }

    #[test]
    #[should_panic(expected = "didn't end within")]
    fn a_command_that_hangs_is_killed() {
        let _ = shell("exec sleep 1000").within(Duration::from_millis(50)).run();
    }

    #[test]
    #[should_panic(expected = "expected exit code 0")]
    fn a_failure_is_no_success() {
        shell("exit 1").run().ok();
    }
}
