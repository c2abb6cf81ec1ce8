//! `catena bench check`: whether what histories tell can have happened.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use history::{CheckError, Checked, Component, FormatError, History};

use crate::clock::Stopwatch;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::output::Output;
use crate::text::time;
use crate::text::{count, size};

/// Check histories of one run: is there an order of all operations that explains every answer?
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All processes that worked on the directory have to be there: one file each, in any order.
Two checkers look at them; where they contradict each other, that is a bug of theirs, and said so.

Exit codes: 7 if something can't have happened; 8 if some of it couldn't be decided; 2 if the files don't belong together.

Examples:
  catena bench check run.jsonl
  catena bench check --json first.jsonl second.jsonl")]
pub(crate) struct Check {
    /// Histories, as `catena bench run --history` writes them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Anomalies that are printed in words; all are counted.
const PRINTED_MAX: usize = 100;

impl Check {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let watch = Stopwatch::start();
        let histories = self.files.iter().map(|path| read(path)).collect::<Result<Vec<History>>>()?;
        let checked = history::check(&histories).map_err(|error| refused(&error))?;
        print(&mut context.output, &checked, watch.nanoseconds())?;
        verdict(&checked)
    }
}

fn read(path: &Path) -> Result<History> {
    let file = File::open(path).map_err(|error| Failure::path(path, &error))?;
    history::read(BufReader::with_capacity(1 << 20, file)).map_err(|error| match error {
        FormatError::Io(error) => Failure::path(path, &error),
        error => Failure::usage(path.display().to_string(), error.to_string())
            .next("name files that `catena bench run --history` wrote"),
    })
}

fn refused(error: &CheckError) -> Failure {
    let next = match error {
        CheckError::None | CheckError::Missing { .. } => "name the histories of all processes of the run",
        CheckError::SameProcess { .. } => {
            "give each process a number of its own: catena bench run --process N"
        }
        CheckError::Clocks | CheckError::Places => "name histories of one run only",
        CheckError::NotEmpty => {
            "give each run a directory of its own, or none: catena bench run --directory PATH"
        }
    };
    Failure::usage("the histories", error.to_string()).next(next)
}

fn print(output: &mut Output, checked: &Checked, nanoseconds: u64) -> Result<()> {
    for anomaly in checked.anomalies.iter().take(PRINTED_MAX) {
        output.result(
            || {
                Object::new()
                    .with("anomaly", anomaly.class.name())
                    .with("path", anomaly.path.as_str())
                    .with("text", anomaly.text.as_str())
            },
            |_| anomaly.to_string().into_bytes(),
        )?;
    }
    for component in &checked.doubtful {
        let what = match component {
            component if component.is_disputed() => "the checkers contradict each other",
            component if component.is_undecided() => "could not be decided",
            _ => continue,
        };
        output.result(|| doubtful(component, what), |_| describe(component, what).into_bytes())?;
    }
    let Checked { operations, unknown, cut, components, .. } = checked;
    output.result(
        || {
            Object::new()
                .with("operations", *operations)
                .with("unknown", *unknown)
                .with("cut", *cut)
                .with("components", *components)
                .with("anomalies", checked.anomalies.len() as u64)
                .with("disputed", checked.disputed().count() as u64)
                .with("undecided", checked.undecided().count() as u64)
                .with("nanoseconds", nanoseconds)
        },
        |_| {
            let cut = if *cut > 0 { format!(", {} cut off", count(*cut, "history")) } else { String::new() };
            format!(
                "checked {} on {} of paths, {} of unknown outcome{cut}, in {}: {}",
                count(*operations, "operation"),
                count(*components, "group"),
                size::grouped(*unknown),
                time::duration(nanoseconds),
                match checked.anomalies.len() as u64 {
                    0 => "all of it can have happened".to_owned(),
                    anomalies => count(anomalies, "anomaly"),
                }
            )
            .into_bytes()
        },
    )
}

fn doubtful(component: &Component, what: &str) -> Object {
    let paths: Vec<&str> = component.paths.iter().map(|path| &**path).collect();
    Object::new()
        .with("doubt", what)
        .with("search", component.search.to_string())
        .with("oracle", component.oracle.to_string())
        .with("operations", component.operations)
        .with("paths", paths)
}

fn describe(component: &Component, what: &str) -> String {
    let first = component.paths.first().map_or("", |path| path);
    format!(
        "{first} and {} more: {what}: the search says {}, the oracle {}",
        component.paths.len().saturating_sub(1),
        component.search,
        component.oracle
    )
}

fn verdict(checked: &Checked) -> Result<()> {
    let (anomalies, disputed) = (checked.anomalies.len() as u64, checked.disputed().count() as u64);
    if anomalies > 0 {
        let reason = format!("{} can't have happened", count(anomalies, "answer"));
        return Err(Failure::new(Exit::Integrity, "", reason)
            .next("keep the histories and the server's directory: they are what a bug report needs"));
    }
    if disputed > 0 {
        let reason = format!("the checkers contradict each other on {}", count(disputed, "group"));
        return Err(Failure::new(Exit::Failed, "", reason)
            .next("report this bug of the checkers, with the histories"));
    }
    let undecided = checked.undecided().count() as u64;
    if undecided > 0 {
        let reason = format!("{} of paths could not be decided", count(undecided, "group"));
        return Err(Failure::new(Exit::Partial, "", reason)
            .next("fewer operations of unknown outcome, or shorter runs, are easier"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use history::{Anomaly, Class, Verdict};

    use super::*;

    #[test]
    fn the_exit_code_says_the_worst() {
        let component =
            |search, oracle| Component { paths: vec!["d/a".into()], operations: 1, search, oracle };
        let check = |doubtful: Vec<Component>, anomalies: usize, expected: Option<Exit>| {
            let anomaly = Anomaly { class: Class::Lost, path: "d/a".into(), text: "x".into() };
            let checked = Checked { doubtful, anomalies: vec![anomaly; anomalies], ..Checked::default() };
            assert_eq!(verdict(&checked).err().map(|failure| failure.exit), expected);
        };
        check(Vec::new(), 0, None);
        check(vec![component(Verdict::Clean, Verdict::Undecided)], 0, None);
        check(vec![component(Verdict::Undecided, Verdict::Clean)], 0, None);
        check(vec![component(Verdict::Undecided, Verdict::Undecided)], 0, Some(Exit::Partial));
        check(vec![component(Verdict::Wrong, Verdict::Clean)], 0, Some(Exit::Failed));
        check(vec![component(Verdict::Wrong, Verdict::Undecided)], 1, Some(Exit::Integrity));
    }
}
