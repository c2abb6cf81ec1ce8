//! `catena bench run|check|profiles`: load with verified contents, and the checkers of its histories.

mod check;
mod print;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Error, WINDOW_BYTES_MIN};
use loadgen::{BuiltIn, Options, Profile, Progress as Passed, Report, RunError};

use crate::commands::volume::parse_seconds;
use crate::context::{Context, volume_not_found};
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::remote_failure::failure;
use crate::text::{count, shell, size};
use crate::transfer::progress::Progress;
pub(crate) use check::Check;

/// Put load on a volume, verify what is read, and check histories
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    Run(Run),
    Check(Check),
    Profiles(Profiles),
}

/// Run a load, and report rates, latencies and whatever was read that can't be right
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each client has a connection and a session of its own, and goes on where an operation fails.

Exit codes: 7 if something was lost, stale, torn or corrupt; 6 if no operation was answered;
9 if the outcome of some is unknown; 8 if some failed.

Examples:
  catena bench run --volume scratch
  catena bench run --volume scratch --profile small-files --duration 5m --clients 64
  catena bench run --volume scratch --profile my.toml --seed 7 --history run.jsonl --json
  catena bench run --volume scratch --directory shared --history second.jsonl")]
pub(crate) struct Run {
    /// A built-in profile (`catena bench profiles`) or a file with one
    #[arg(long, value_name = "FILE|NAME", default_value = "mixed")]
    profile: PathBuf,
    /// How long: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Clients [default: the profile's]
    #[arg(long, value_name = "N")]
    clients: Option<u32>,
    /// Operations that each client has under way [default: the profile's]
    #[arg(long, value_name = "N")]
    in_flight: Option<u32>,
    /// What all choices follow from [default: drawn, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write every operation into this new file, for `catena bench check`
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// The volume's name; it has to exist
    #[arg(long, value_name = "NAME", default_value = "bench")]
    volume: String,
    /// Work in this directory, which other processes may share and which stays [default: one of its own, removed at the end]
    #[arg(long, value_name = "PATH")]
    directory: Option<String>,
    /// This process's number in histories that are checked together [default: the process's id]
    #[arg(long, value_name = "N")]
    process: Option<u32>,
}

/// List the built-in profiles, or print one, to be changed and run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena bench profiles
  catena bench profiles mixed > my.toml")]
pub(crate) struct Profiles {
    /// Print this profile's file
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    parse_seconds(text).map(Duration::from_secs)
}

impl Bench {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::Run(command) => command.run(context),
            Self::Check(command) => command.run(context),
            Self::Profiles(command) => command.run(context),
        }
    }
}

impl Run {
    fn run(self, context: &mut Context) -> Result<()> {
        let options = self.options(context)?;
        let mut history = match &self.history {
            None => None,
            Some(path) => {
                // Never over a history that somebody may want to check.
                let opened = OpenOptions::new().append(true).create_new(true).open(path);
                Some(opened.map_err(|error| Failure::path(path, &error))?)
            }
        };
        let progress = Progress::new(context);
        let writer = history.as_mut().map(|file| file as &mut dyn Write);
        let ran = loadgen::run(&options, writer, |passed| show(&progress, passed));
        progress.finish();
        let report = ran.map_err(|error| self.failure(error))?;
        let named = self.profile.display().to_string();
        print::report(&mut context.output, &report, &options, &named)?;
        self.verdict(&report)
    }

    fn options(&self, context: &Context) -> Result<Options> {
        let mut profile = read_profile(&self.profile)?;
        profile.clients = self.clients.unwrap_or(profile.clients);
        profile.in_flight = self.in_flight.unwrap_or(profile.in_flight);
        profile.check().map_err(|error| Failure::usage("the profile", error.to_string()))?;
        // Many clients: each has as little memory as one chunk needs, or as many as it has operations.
        let window = WINDOW_BYTES_MIN.saturating_mul(profile.in_flight.min(WINDOWS_MAX) as usize);
        let seed = self.seed.unwrap_or_else(|| u64::from(u32::from_le_bytes(runtime::clock::random_bytes())));
        let directory = self.directory.as_deref().map(|path| path.trim_matches('/').to_owned());
        if directory.as_deref() == Some("") {
            return Err(Failure::usage("--directory", "names no directory"));
        }
        Ok(Options {
            client: context.config()?.with_window_bytes(window).with_name("catena bench"),
            volume: self.volume.trim_start_matches('/').to_owned(),
            directory,
            profile,
            seed,
            duration: self.duration,
            process: self.process.unwrap_or_else(std::process::id),
            stop: Arc::default(),
        })
    }

    fn failure(&self, error: RunError) -> Failure {
        match error {
            RunError::Profile(error) => Failure::usage("the profile", error.to_string()),
            RunError::Client { error, .. } if matches!(&*error, Error::NotFound { .. }) => {
                let name = self.volume.trim_start_matches('/');
                volume_not_found(name).next(format!("make it: catena volume create {name}"))
            }
            RunError::Client { what, error } => failure(what, &error),
            RunError::History(error) => {
                let path = self.history.clone().unwrap_or_default();
                Failure::path(&path, &error)
            }
        }
    }

    /// How the command ends.
    fn verdict(&self, report: &Report) -> Result<()> {
        let failed = report.total(|counted| counted.failed);
        let unknown = report.total(|counted| counted.unknown);
        let answered = report.total(loadgen::Counted::answered);
        let check = self.history.as_ref().map(|path| {
            use std::os::unix::ffi::OsStrExt as _;
            format!("see what can have happened: catena bench check {}", shell(path.as_os_str().as_bytes()))
        });
        let end = |exit, reason: String, next: &str| {
            Err(Failure::new(exit, "", reason).next(check.clone().unwrap_or_else(|| next.to_owned())))
        };
        if report.wrong.count() > 0 {
            let reason = format!("{} can't be right", count(report.wrong.count(), "read"));
            return end(Exit::Integrity, reason, "run it again with --history FILE, and check that");
        }
        if answered == 0 && failed + unknown > 0 {
            let reason = "no operation was answered".to_owned();
            return end(Exit::Unavailable, reason, "check that the server runs: catena status");
        }
        if unknown > 0 {
            let reason = format!("the outcome of {} is unknown", count(unknown, "operation"));
            return end(
                Exit::Unknown,
                reason,
                "with --history FILE, `catena bench check` takes them into account",
            );
        }
        if failed > 0 {
            let reason = format!("{} failed", count(failed, "operation"));
            return end(Exit::Partial, reason, "look at the errors above");
        }
        Ok(())
    }
}

/// Windows of the smallest size that a client gets for its operations, at most: 32 MiB, the library's default.
const WINDOWS_MAX: u32 = 8;

/// A profile by its name or from a file; a name with a slash or a dot is a file's.
fn read_profile(path: &std::path::Path) -> Result<Profile> {
    if let Some(built_in) = path.to_str().and_then(BuiltIn::named) {
        return Ok(built_in.profile());
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::path(path, &error).next("name a file, or a built-in profile: catena bench profiles")
    })?;
    Profile::parse(&text).map_err(|error| {
        Failure::usage(path.display().to_string(), error.to_string().trim().to_owned())
            .next("see how one is written: catena bench profiles mixed")
    })
}

fn show(progress: &Progress, passed: &Passed) {
    if !progress.is_shown() {
        return;
    }
    let Passed { filled: (filled, to_fill), nanoseconds, rate, bytes_rate, failed, wrong } = *passed;
    if nanoseconds == 0 {
        return progress.message(format!("filling: {} of {}", size::grouped(filled), count(to_fill, "file")));
    }
    progress.advance(bytes_rate);
    progress.message(format!(
        "{} s: {} operations/s, {}/s, {} failed, {} wrong",
        nanoseconds / 1_000_000_000,
        size::grouped(rate),
        size::human(bytes_rate),
        size::grouped(failed),
        size::grouped(wrong)
    ));
}

impl Profiles {
    fn run(self, context: &mut Context) -> Result<()> {
        let Some(name) = self.name else {
            for built_in in BuiltIn::ALL {
                let (name, about) = (built_in.name, built_in.profile().about);
                context.output.result(
                    || Object::new().with("name", name).with("about", about.as_str()),
                    |_| format!("{name:<12} {about}").into_bytes(),
                )?;
            }
            return Ok(());
        };
        let built_in = BuiltIn::named(&name).ok_or_else(|| {
            Failure::new(Exit::NotFound, name, "there is no such profile")
                .next("see which there are: catena bench profiles")
        })?;
        context.output.bytes(built_in.text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &str) -> Run {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            run: Run,
        }
        let words = std::iter::once("run").chain(words.split_whitespace());
        <Line as clap::Parser>::try_parse_from(words).expect("well-formed").run
    }

    #[test]
    fn the_exit_code_says_the_worst() {
        let line = run("--history f");
        let check = |change: fn(&mut Report), expected: Option<Exit>| {
            let mut report = Report::empty("d");
            report.kinds[0].ok = 10;
            change(&mut report);
            assert_eq!(line.verdict(&report).err().map(|failure| failure.exit), expected);
        };
        check(|_| {}, None);
        check(|report| report.kinds[1].failed = 1, Some(Exit::Partial));
        check(|report| (report.kinds[1].failed, report.kinds[2].unknown) = (1, 1), Some(Exit::Unknown));
        check(|report| (report.kinds[0].ok, report.kinds[1].failed) = (0, 1), Some(Exit::Unavailable));
        check(|report| (report.kinds[2].unknown, report.wrong.stale) = (1, 1), Some(Exit::Integrity));
    }

    #[test]
    fn profiles_are_found_by_name_or_file() {
        assert!(read_profile(std::path::Path::new("metadata")).is_ok());
        let missing = read_profile(std::path::Path::new("none")).expect_err("there is no such file");
        assert_eq!(missing.exit, Exit::NotFound);
    }
}
