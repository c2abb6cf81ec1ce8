//! The command line: which command, its options, and how the process ends.

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::commands;
use crate::context::{Context, Global};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt;
use crate::invocation;
use crate::output::{self, WhenClosed};

/// A distributed file and chunk store: files in, files out, every byte verified.
#[derive(Debug, Parser)]
#[command(
    name = "catena",
    version,
    arg_required_else_help = true,
    // Its own takes no options, not even those of every command.
    disable_help_subcommand = true,
    after_help = AFTER_HELP,
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Remote names are /VOLUME/path/in/it. `catena COMMAND --help` has examples.

First steps:
  catena quickstart              see a whole node store this directory and give it back
  catena dev                     run a node for development
  catena volume create photos    make a volume
  catena put -r ~/Pictures /photos/pictures
  catena ls -l /photos

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 conflict or precondition,
6 unavailable or timeout, 7 integrity, 8 partial, 9 outcome unknown, 130 interrupted";

/// Every command.
#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(commands::quickstart::Quickstart),
    Dev(commands::dev::Dev),
    Server(commands::server::Server),
    #[command(subcommand)]
    Volume(commands::volume::Volume),
    Put(commands::put::Put),
    Get(commands::get::Get),
    Cat(commands::cat::Cat),
    Append(commands::change::Append),
    Write(commands::change::Write),
    Truncate(commands::change::Truncate),
    Ln(commands::ln::Ln),
    Chmod(commands::attributes::Chmod),
    Chown(commands::attributes::Chown),
    Touch(commands::attributes::Touch),
    #[command(subcommand)]
    Xattr(commands::xattr::Xattr),
    Ls(commands::ls::Ls),
    Stat(commands::stat::Stat),
    Du(commands::usage::Du),
    Df(commands::usage::Df),
    Find(commands::find::Find),
    Mkdir(commands::mkdir::Mkdir),
    Rm(commands::rm::Rm),
    Mv(commands::mv::Mv),
    Cp(commands::cp::Cp),
    Compact(commands::compact::Compact),
    Verify(commands::verify::Verify),
    Locate(commands::locate::Locate),
    Status(commands::status::Status),
    #[command(subcommand)]
    Admin(commands::admin::Admin),
    Doctor(commands::doctor::Doctor),
    #[command(subcommand)]
    Bench(commands::bench::Bench),
    #[command(subcommand)]
    Debug(commands::debug::Debug),
    Completions(commands::shell::Completions),
    Man(commands::shell::Man),
    Help(commands::shell::Help),
}

/// Reads the command line, does what it says, and tells how the process ends.
pub(crate) fn run() -> Exit {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return refuse(&error),
    };
    let json = line.global.json;
    let is_doctor = matches!(line.command, Command::Doctor(_));
    if let Some(failure) = cpu_failure(&runtime::cpu_features_missing()).filter(|_| !is_doctor) {
        output::report(&failure, json);
        return failure.exit;
    }
    let mut context = Context::new(line.global, line.command.when_closed());
    if !line.command.moves_bytes() {
        context.window_bytes = client::WINDOW_BYTES_MIN;
    }
    context.makes = line.command.makes();
    let outcome = line.command.run(&mut context);
    context.close();
    match outcome.and_then(|()| context.output.finish()) {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            drop(context.output.finish());
            output::report(&failure, json);
            failure.exit
        }
    }
}

/// The command line as a value, for completions and manual pages.
pub(crate) fn definition() -> clap::Command {
    CommandLine::command()
}

/// On an older CPU than the build's the first checksum would be an illegal instruction.
fn cpu_failure(missing: &[&str]) -> Option<Failure> {
    let reason = || format!("lacks {}, which this build uses", missing.join(", "));
    (!missing.is_empty()).then(|| {
        Failure::new(Exit::Failed, "this CPU", reason())
            .next("build for it: take `target-cpu` out of .cargo/config.toml")
    })
}

/// Help, version, or a command line that makes no sense.
fn refuse(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => Exit::Ok,
            Err(error) => {
                let failure = Failure::stdout(&error);
                output::report(&failure, false);
                failure.exit
            }
        };
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        output::report(&usage(error), true);
    } else {
        output::refuse(
            &error.render(),
            &format!("For more information, try '{} --help'.", invocation::command()),
        );
    }
    Exit::Usage
}

/// The failure that a command line is which makes no sense.
pub(crate) fn usage(error: &clap::Error) -> Failure {
    Failure::usage("command line", on_one_line(&error.render().to_string()))
        .next(format!("{} --help", invocation::command()))
}

/// What clap says over several lines, without how the command is written and where its help is: the next step says that.
fn on_one_line(message: &str) -> String {
    let ends = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let mut out = String::new();
    for line in message.lines().take_while(ends).map(str::trim).filter(|line| !line.is_empty()) {
        let separator = match line {
            _ if out.is_empty() => "",
            _ if line.starts_with("tip:") => "; ",
            _ => " ",
        };
        out = out + separator + line.trim_start_matches("error: ");
    }
    out
}

impl Command {
    fn run(self, context: &mut Context) -> Result<()> {
        match &self {
            // A node ends in good order.
            Self::Dev(_) | Self::Server(_) => {}
            _ => interrupt::end_at_signal(context.global.json)?,
        }
        match self {
            Self::Quickstart(command) => command.run(context),
            Self::Dev(command) => command.run(context),
            Self::Server(command) => command.run(context),
            Self::Volume(command) => command.run(context),
            Self::Put(command) => command.run(context),
            Self::Get(command) => command.run(context),
            Self::Cat(command) => command.run(context),
            Self::Append(command) => command.run(context),
            Self::Write(command) => command.run(context),
            Self::Truncate(command) => command.run(context),
            Self::Ln(command) => command.run(context),
            Self::Chmod(command) => command.run(context),
            Self::Chown(command) => command.run(context),
            Self::Touch(command) => command.run(context),
            Self::Xattr(command) => command.run(context),
            Self::Ls(command) => command.run(context),
            Self::Stat(command) => command.run(context),
            Self::Du(command) => command.run(context),
            Self::Df(command) => command.run(context),
            Self::Find(command) => command.run(context),
            Self::Mkdir(command) => command.run(context),
            Self::Rm(command) => command.run(context),
            Self::Mv(command) => command.run(context),
            Self::Cp(command) => command.run(context),
            Self::Compact(command) => command.run(context),
            Self::Verify(command) => command.run(context),
            Self::Locate(command) => command.run(context),
            Self::Status(command) => command.run(context),
            Self::Admin(command) => command.run(context),
            Self::Doctor(command) => command.run(context),
            Self::Bench(command) => command.run(context),
            Self::Debug(command) => command.run(context),
            Self::Completions(command) => command.run(context),
            Self::Man(command) => command.run(context),
            Self::Help(command) => command.run(context),
        }
    }

    /// Whether files' bytes go through this process; all others deal with names.
    fn moves_bytes(&self) -> bool {
        matches!(
            self,
            Self::Quickstart(_)
                | Self::Put(_)
                | Self::Get(_)
                | Self::Cat(_)
                | Self::Append(_)
                | Self::Write(_)
                | Self::Cp(_)
                | Self::Verify(_)
                | Self::Locate(_)
        )
    }

    /// Whether it makes files or directories, for which nothing makes a volume implicitly.
    fn makes(&self) -> bool {
        matches!(
            self,
            Self::Put(_)
                | Self::Append(_)
                | Self::Write(_)
                | Self::Ln(_)
                | Self::Touch(_)
                | Self::Mkdir(_)
                | Self::Cp(_)
        )
    }

    /// Commands that only print what they read end with their reader; the others finish their work.
    fn when_closed(&self) -> WhenClosed {
        match self {
            Self::Cat(_)
            | Self::Get(_)
            | Self::Ls(_)
            | Self::Stat(_)
            | Self::Du(_)
            | Self::Df(_)
            | Self::Find(_)
            | Self::Verify(_)
            | Self::Locate(_)
            | Self::Status(_)
            | Self::Doctor(_)
            | Self::Debug(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Help(_)
            | Self::Bench(commands::bench::Bench::Check(_) | commands::bench::Bench::Profiles(_)) => {
                WhenClosed::End
            }
            Self::Admin(command) => command.when_closed(),
            _ => WhenClosed::GoOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn the_whole_message_is_kept() {
        for (line, said) in [
            ("put", "the following required arguments were not provided: <SRC… DST>..."),
            ("put -j 0 a /v/b", "invalid value '0' for '--jobs <N>': 0 is not in 1..=256"),
            ("volume creat", "unrecognized subcommand 'creat'; tip: a similar subcommand exists: 'create'"),
        ] {
            let words = std::iter::once("catena").chain(line.split(' '));
            let error = CommandLine::try_parse_from(words).expect_err(line);
            assert_eq!(on_one_line(&error.render().to_string()), said);
        }
    }

    #[test]
    fn an_older_cpu_is_named() {
        assert_eq!(cpu_failure(&[]), None);
        let failure = cpu_failure(&["avx2", "fma"]).expect("two are missing");
        assert_eq!(failure.reason, "lacks avx2, fma, which this build uses");
    }

    #[test]
    fn every_command_has_an_explanation_and_examples() {
        fn check(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no explanation");
            if command.has_subcommands() {
                command
                    .get_subcommands()
                    .for_each(|inner| check(inner, &format!("{path} {}", inner.get_name())));
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains(&format!("  {path}")), "{path} has no example");
            }
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {} has no explanation", argument.get_id());
            }
        }
        definition()
            .get_subcommands()
            .for_each(|inner| check(inner, &format!("catena {}", inner.get_name())));
    }
}
