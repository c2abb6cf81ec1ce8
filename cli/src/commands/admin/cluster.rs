//! `catena admin cluster status`, and the family that it is in.

use std::io::IsTerminal as _;
use std::time::Duration;

use client::ClusterStatus;
use indicatif::ProgressBar;

use super::health::{Report, Resync};
use super::operator::Operator;
use super::recover::Recover;
use crate::clock::{self, Stopwatch};
use crate::commands::server::{Init, Join};
use crate::commands::volume::parse_seconds;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::remote_failure::failure;

/// What a store may take to say how it is; one that doesn't is named.
const STORE_PATIENCE: Duration = Duration::from_secs(3);
/// Over which the rate of a resync is measured, and between two looks of `--wait`.
const ROUND: Duration = Duration::from_secs(1);

/// Found a cluster, join one, show its health, or go on after a loss
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Cluster {
    Init(Init),
    Join(Join),
    Status(Status),
    Recover(Recover),
}

/// Show health, redundancy, space, resync and troubles; exit code 0 only if every copy of everything serves
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena admin cluster status
  catena admin cluster status --json
  catena admin cluster status --wait --within 30m")]
pub(crate) struct Status {
    /// Wait until every copy of everything serves
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this time, for example 90s, 15m or 12h [default: never]
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = parse_seconds)]
    within: Option<u64>,
}

impl Cluster {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self {
            Self::Init(command) => command.run(context),
            Self::Join(command) => command.run(context),
            Self::Status(command) => command.run(context),
            Self::Recover(command) => command.run(context),
        }
    }
}

impl Status {
    fn run(self, context: &mut Context) -> Result<()> {
        let mut operator = Operator::connect(context)?;
        let report = if self.wait {
            self.wait(context, &mut operator)?
        } else {
            let mut look = Look::first(context, &mut operator);
            if !look.report.resync.is_over() {
                clock::pause(ROUND);
                look = look.again(context, &mut operator);
            }
            look.report
        };
        context.output.result(|| report.object(), |_| report.lines().into_bytes())?;
        if report.is_whole() {
            return Ok(());
        }
        let (reason, next) = match self.within.filter(|_| self.wait) {
            Some(seconds) => (
                format!("isn't whole after {seconds} s: {}", report.waits_for()),
                "look what is waited for: catena admin why",
            ),
            None => (
                "isn't whole, as the lines above say".to_owned(),
                "do what stands below each trouble; catena admin why says more",
            ),
        };
        Err(Failure::new(Exit::Unavailable, "the cluster", reason).next(next))
    }

    /// Looks again and again until it is whole or the time is over.
    fn wait(&self, context: &mut Context, operator: &mut Operator) -> Result<Report> {
        let watch = Stopwatch::start();
        let limit = self.within.map(|seconds| seconds.saturating_mul(1_000_000_000));
        let progress = Waiting::new(context);
        let mut look = Look::first(context, operator);
        loop {
            let report = &look.report;
            if report.is_whole() || limit.is_some_and(|limit| watch.nanoseconds() >= limit) {
                break;
            }
            progress.say(context, &report.waits_for(), report.resync)?;
            clock::pause(ROUND);
            look = look.again(context, operator);
        }
        progress.finish();
        Ok(look.report)
    }
}

/// One look at everything, and when it was.
struct Look {
    report: Report,
    watch: Stopwatch,
}

impl Look {
    fn first(context: &mut Context, operator: &mut Operator) -> Self {
        let control = operator.health().and_then(|health| Ok((health, operator.nodes()?)));
        operator.refresh();
        let status = stores(context);
        let resync = status.as_ref().map_or_else(
            |_| Resync::default(),
            |status| Resync::sum(status.shards.iter().filter_map(|shard| shard.state.as_deref().ok())),
        );
        let (map, leader) = (operator.map().clone(), operator.leader());
        Self { report: Report { map, leader, control, status, resync }, watch: Stopwatch::start() }
    }

    /// Another one, with the rate since this one.
    fn again(self, context: &mut Context, operator: &mut Operator) -> Self {
        let mut look = Self::first(context, operator);
        look.report.resync = look.report.resync.since(self.report.resync, self.watch.nanoseconds());
        look
    }
}

/// What the stores say.
fn stores(context: &mut Context) -> Result<ClusterStatus> {
    let client = context.client()?.with_deadline(STORE_PATIENCE);
    client.status().wait().map_err(|error| failure("the stores", &error))
}

/// What is waited for: a line that moves on a terminal, else a line whenever it is something else.
struct Waiting {
    bar: Option<ProgressBar>,
    said: std::cell::RefCell<String>,
}

impl Waiting {
    fn new(context: &Context) -> Self {
        let wanted = std::io::stderr().is_terminal() && !context.global.json && !context.global.quiet;
        Self { bar: wanted.then(ProgressBar::new_spinner), said: std::cell::RefCell::default() }
    }

    fn say(&self, context: &mut Context, waits_for: &str, resync: Resync) -> Result<()> {
        if let Some(bar) = &self.bar {
            let resync = if resync.is_over() { String::new() } else { format!("; {}", resync.text()) };
            bar.set_message(format!("waiting: {waits_for}{resync}"));
            bar.tick();
            return Ok(());
        }
        if self.said.replace(waits_for.to_owned()) != waits_for {
            context.output.line(&format!("waiting: {waits_for}"))?;
            return context.output.finish();
        }
        Ok(())
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
