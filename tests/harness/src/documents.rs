//! The commands of README and docs, run in order, their output and exit status compared.
//!
//! A page's fenced blocks marked `console` are one session: directory and exported variables carry over from command to command
//! and from block to block. In a block
//! - `$ command` is run by bash; lines that begin with `> ` continue it;
//! - the lines below it are what it prints, both streams; `...` alone stands for any lines, inside a line for any text;
//! - `[exit N]` is its exit status where that isn't 0;
//! - a command that ends in `&` stays: its output is awaited, and it is stopped when the page ends.
//!
//! `cargo run --release --` runs the binary under test. Ports of a server that a page names, 17420 and the next, stand
//! for ones that are free. A block `console not run: REASON` isn't run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::binary;
use crate::command::Run;
use crate::deadline;
use crate::node::free_base_port;
use crate::process::Process;

/// One command of a page with what it has to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Line in the page, from 1.
    pub line: usize,
    /// What bash runs.
    pub command: String,
    /// Patterns of its output, line by line.
    pub expected: Vec<String>,
    /// Its exit status.
    pub status: i32,
}

/// What one command of a page may take; a quickstart stores a source tree twice over.
const STEP_WITHIN: Duration = Duration::from_mins(5);

/// Runs the page at `path` (from the workspace's root) inside `directory` and returns how many commands it ran.
///
/// # Panics
/// At the first command that doesn't do what the page says, naming page and line.
#[must_use]
pub fn run_page(path: &str, directory: &Path) -> usize {
    let text = std::fs::read_to_string(binary::workspace().join(path)).expect("the page is readable");
    let text = with_free_ports(&text);
    let programs = crate::catena().parent().expect("a binary stands in a folder");
    let mut session = Session::new(programs, directory);
    let steps = steps(&text);
    for step in &steps {
        if let Err(reason) = session.run(step) {
            panic!("{path}:{}: $ {}\n{reason}", step.line, step.command);
        }
    }
    steps.len()
}

/// The base port of a page's server.
const PAGE_PORT: u16 = 17420;

/// The page for ports that nobody has, whoever else runs its commands on this machine.
fn with_free_ports(text: &str) -> String {
    let free = free_base_port();
    let port = |offset: u16| ((PAGE_PORT + offset).to_string(), (free + offset).to_string());
    [port(0), port(1)].iter().fold(text.to_owned(), |text, (page, free)| text.replace(page, free))
}

/// The commands of a page.
#[must_use]
pub fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            inside = !inside && info.trim() == "console";
        } else if inside {
            step_line(&mut steps, index + 1, line);
        }
    }
    steps
}

fn step_line(steps: &mut Vec<Step>, line: usize, text: &str) {
    if let Some(command) = text.strip_prefix("$ ") {
        steps.push(Step { line, command: command.to_owned(), expected: Vec::new(), status: 0 });
        return;
    }
    let Some(step) = steps.last_mut() else { return };
    let status = text
        .strip_prefix("[exit ")
        .and_then(|rest| rest.strip_suffix(']'))
        .and_then(|code| code.parse().ok());
    if let (Some(more), true) = (text.strip_prefix("> "), step.expected.is_empty()) {
        step.command.push('\n');
        step.command.push_str(more);
    } else if let Some(status) = status {
        step.status = status;
    } else {
        step.expected.push(text.to_owned());
    }
}

/// What a command that stays may take to say what the page says.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Commands that the test can't run inside itself.
const ELSEWHERE: &[(&str, &str)] = &[("cargo test --workspace", "this test is a part of it")];

struct Session<'a> {
    /// Folder of the binary under test.
    programs: &'a Path,
    directory: &'a Path,
    running: Vec<Process>,
}

impl<'a> Session<'a> {
    fn new(programs: &'a Path, directory: &'a Path) -> Self {
        Self { programs, directory, running: Vec::new() }
    }

    fn run(&mut self, step: &Step) -> Result<(), String> {
        if ELSEWHERE.iter().any(|(command, _)| *command == step.command) {
            return Ok(());
        }
        let command = step.command.replace("cargo run --release --", "catena");
        match command.strip_suffix('&') {
            Some(command) => self.start(command.trim_end(), step),
            None => self.run_to_end(&command, step),
        }
    }

    fn run_to_end(&self, command: &str, step: &Step) -> Result<(), String> {
        // Exported variables and the directory live in a file between commands.
        let script =
            format!("{}\n{{ {command}\n}} 2>&1\nstatus=$?\n{SAVE_STATE}\nexit $status", self.preamble());
        let outcome =
            Run::new("bash").args(["-c", &script]).directory(self.directory).within(STEP_WITHIN).run();
        let printed = outcome.text();
        if outcome.code() != step.status {
            return Err(format!(
                "exit status {} instead of {}; it printed\n{printed}",
                outcome.code(),
                step.status
            ));
        }
        if matches(&step.expected, &printed) { Ok(()) } else { Err(unlike(step, &printed)) }
    }

    fn start(&mut self, command: &str, step: &Step) -> Result<(), String> {
        let log = self.directory.join(format!("background-{}.log", self.running.len()));
        let script = format!("{}\nexec {command}", self.preamble());
        let mut process =
            Process::start(Command::new("bash").args(["-c", &script]).current_dir(self.directory), &log);
        let said = deadline::poll(READY_WITHIN, || {
            let ended = process.ended().is_some();
            (ended || matches(&step.expected, &process.log())).then(|| process.log())
        });
        let log = said.unwrap_or_else(|| process.log());
        self.running.push(process);
        if matches(&step.expected, &log) { Ok(()) } else { Err(unlike(step, &log)) }
    }

    /// Sets up what the commands before left: variables, directory; the first time, the surroundings.
    fn preamble(&self) -> String {
        let programs = self.programs.display();
        let home = self.directory.display();
        format!(
            "export PATH='{programs}':\"$PATH\" HOME='{home}' TMPDIR='{home}' STATE='{home}/.session'\n\
             export XDG_DATA_HOME='{home}/.local/share' XDG_CONFIG_HOME='{home}/.config'\n\
             unset CATENA_ENDPOINT\n\
             if [ -e \"$STATE\" ]; then . \"$STATE\"; fi"
        )
    }
}

const SAVE_STATE: &str = "{ export -p; printf 'cd %q\\n' \"$PWD\"; } >\"$STATE\"";

fn unlike(step: &Step, printed: &str) -> String {
    format!("the page says\n{}\n--- but it printed\n{printed}", step.expected.join("\n"))
}

/// Whether an output fits its patterns.
#[must_use]
pub fn matches(patterns: &[String], printed: &str) -> bool {
    let lines: Vec<&str> = printed.lines().collect();
    matches_lines(patterns, &lines)
}

fn matches_lines(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((pattern, rest)), _) if pattern.trim() == "..." => {
            (0..=lines.len()).any(|skipped| matches_lines(rest, &lines[skipped..]))
        }
        (Some((pattern, patterns)), Some((line, lines))) => {
            matches_line(pattern.trim_end(), line.trim_end()) && matches_lines(patterns, lines)
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn matches_line(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("...");
    // The first part is fixed to the beginning, the last one to the end, and those between are found from left to right.
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    let mut open = false;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open = true;
    }
    !open && rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    #[test]
    fn wildcards_match_lines_and_parts_of_lines() {
        let check = |pattern: &str, printed: &str, expected: bool| {
            let patterns: Vec<String> = pattern.lines().map(str::to_owned).collect();
            assert_eq!(matches(&patterns, printed), expected, "{pattern:?} against {printed:?}");
        };
        check("", "", true);
        check("", "a", false);
        check("a\nb", "a\nb\n", true);
        check("a\nb", "a", false);
        check("a\n...\nb", "a\nb", true);
        check("a\n...\nb", "a\nx\ny\nb", true);
        check("a\n...\nb", "a\nx\nc", false);
        check("...", "", true);
        check("... files, ... bytes", "12 files, 9 bytes", true);
        check("... files, ... bytes", "12 files, 9 bits", false);
        check("at ...:...", "at 127.0.0.1:80", true);
        check("a...a", "a", false);
    }

    #[test]
    fn commands_and_their_output_are_taken_from_console_blocks() {
        let page = "text\n```console\n$ one \\\n> two\nprinted\n[exit 3]\n$ three\n```\n```console not run: needs root\n$ four\n```\n```\n$ five\n```\n";
        let step = |line, command: &str, expected: &[&str], status| Step {
            line,
            command: command.to_owned(),
            expected: expected.iter().map(|&line| line.to_owned()).collect(),
            status,
        };
        assert_eq!(steps(page), [step(3, "one \\\ntwo", &["printed"], 3), step(7, "three", &[], 0)]);
    }

    /// A page's commands against a binary that isn't there: the session itself is what is tested.
    #[test]
    fn a_session_carries_over_and_tells_lies_apart() {
        let scratch = Scratch::new();
        let mut session = Session::new(Path::new("/bin"), scratch.path());
        let mut check = |page: &str, expected: Result<(), &str>| {
            for step in steps(&format!("```console\n{page}\n```")) {
                let found = session.run(&step);
                match (&found, expected) {
                    (Ok(()), Ok(())) => {}
                    (Err(reason), Err(part)) if reason.contains(part) => {}
                    _ => panic!("{page}: {found:?}"),
                }
            }
        };
        check("$ export A=1; mkdir d; cd d; false\n[exit 1]", Ok(()));
        check("$ echo $A $(basename $PWD)\n1 d", Ok(()));
        check("$ echo one >&2\ntwo", Err("it printed\none"));
        check("$ exit 4", Err("exit status 4 instead of 0"));
        check("$ sh -c 'echo ready; exec sleep 100' &\nready", Ok(()));
        check("$ cargo test --workspace\nnothing of this is run", Ok(()));
    }
}
