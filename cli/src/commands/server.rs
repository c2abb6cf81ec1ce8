//! `catena server`, `catena server init`, `catena server recover`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::control::Control;
use node::Config;
use sd_notify::NotifyState;

use crate::commands::dev::serve;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Termination;
use crate::json::Object;
use crate::text::{self, shell};
use crate::{local_cluster, local_node};

/// Run a node as an operator does: configured by a file, formatted by `server init`
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  catena server --print-config > catena.toml
  catena server init --config catena.toml
  catena server --config catena.toml"
)]
pub(crate) struct Server {
    #[command(subcommand)]
    command: Option<Command>,
    /// The node's configuration
    #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
    config: Option<PathBuf>,
    /// Print the defaults with an explanation of every key
    #[arg(long, conflicts_with = "config")]
    print_config: bool,
    /// End when the process that started this one does
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

/// What `server` does besides serving.
#[derive(Debug, clap::Subcommand)]
enum Command {
    Init(Init),
    Join(Join),
    Recover(Recover),
}

/// Format the stores and found a cluster of one node; others join it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena server init --config catena.toml
  catena server init --adopt --config catena.toml
  catena admin cluster init --config catena.toml")]
pub(crate) struct Init {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Format nothing: make the node of an earlier release, which had no control group, one with it; once
    #[arg(long)]
    adopt: bool,
}

/// Format the stores as another node of a cluster that runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena server join --config catena.toml --endpoint 192.0.2.7:7421
  catena admin cluster join --config catena.toml --endpoint 192.0.2.7:7421
  catena server --config catena.toml

Any address of any node will do as endpoint. Cut off, the same command goes on. Starting the node brings it in: chains get replicas in it by themselves.")]
pub(crate) struct Join {
    /// The node's configuration; `base_port` isn't 0
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Give up what can't be read of a node's log and stores, so that it starts again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena server recover --accept-data-loss --config catena.toml")]
struct Recover {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Say that changes which can't be read any more may be lost
    #[arg(long, required = true)]
    accept_data_loss: bool,
}

impl Server {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        match self.command {
            Some(Command::Init(command)) => command.run(context),
            Some(Command::Join(command)) => command.run(context),
            Some(Command::Recover(command)) => command.run(context),
            None if self.print_config => context.output.bytes(Config::commented_defaults().as_bytes()),
            None => {
                let file = self.config.as_deref().expect("clap asks for it");
                if self.end_with_parent {
                    end_with_parent()?;
                }
                run(context, file)
            }
        }
    }
}

fn load(context: &Context, file: &Path) -> Result<Config> {
    let mut config = Config::load(file).map_err(|error| local_node::config_failure(&error))?;
    if context.global.quiet {
        config.log = config.log.quiet();
    }
    node::logging::init(&config.log).map_err(|error| local_node::config_failure(&error))?;
    Ok(config)
}

/// Serves until a signal, then drains.
fn run(context: &mut Context, file: &Path) -> Result<()> {
    let termination = Termination::subscribe()?;
    let config = load(context, file)?;
    let pid = PidFile::new(&config.directory);
    let node = local_node::start(config).map_err(|failure| failure.with_config(file))?;
    pid.write()?;
    let endpoint = node.endpoint();
    context.output.result(
        || {
            Object::new()
                .with("endpoint", endpoint.as_str())
                .with("admin", node.admin_address().to_string())
                .with("cluster", node.cluster().to_string())
        },
        |_| {
            let state =
                node.waits_for().map_or_else(|| "ready".to_owned(), |why| format!("not serving yet ({why})"));
            format!("{state} at {endpoint}, admin at http://{}", node.admin_address()).into_bytes()
        },
    )?;
    context.output.finish()?;
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("serving at {endpoint}"))]);
    let outcome = serve(&node, &termination);
    notify(&[NotifyState::Stopping]);
    outcome.and(local_node::stop(node))
}

/// The node's process, for whoever wants to signal it; removed when it ends in order.
struct PidFile(PathBuf);

impl PidFile {
    fn new(directory: &Path) -> Self {
        Self(directory.join("pid"))
    }

    fn write(&self) -> Result<()> {
        local_node::write_line(&self.0, &std::process::id().to_string())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let is_own =
            std::fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if is_own {
            drop(std::fs::remove_file(&self.0));
        }
    }
}

/// SIGTERM when the parent ends; one that has ended already is init's to replace.
fn end_with_parent() -> Result<()> {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|error| Failure::io("this process", &error.into()))?;
    if rustix::process::getppid() != parent {
        return Err(Failure::new(Exit::Failed, "the process that started this one", "has ended"));
    }
    Ok(())
}

/// Tells the service manager, where there is one.
fn notify(states: &[NotifyState<'_>]) {
    // Without a manager there is nobody to tell; one that doesn't listen has its own time limits.
    drop(sd_notify::notify(states));
}

/// Disks have to be there before they are formatted: one that isn't mounted is not made up for (R34).
fn check_places(config: &Config) -> Result<()> {
    for disk in &config.disks {
        if !disk.path.is_dir() {
            let shown = disk.path.display().to_string();
            let (exit, reason) = if disk.path.exists() {
                (Exit::Conflict, "isn't a directory")
            } else {
                (Exit::NotFound, "the directory doesn't exist")
            };
            return Err(Failure::new(exit, &shown, reason)
                .next(format!("mount its disk, or make it: mkdir -p {shown}")));
        }
    }
    Ok(())
}

impl Init {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let config = load(context, &self.config)?;
        let start = format!("start it: catena server --config {}", shell(self.config.as_os_str().as_bytes()));
        if self.adopt {
            let cluster = node::adopt(&config)
                .map_err(|error| local_node::failure(&error).with_config(&self.config))?;
            return context.output.note(
                || Object::new().with("cluster", cluster.to_string()).with("adopted", true),
                || format!("cluster {cluster} has a control group now\n{start}"),
            );
        }
        check_places(&config)?;
        let made =
            node::init(&config).map_err(|error| local_node::failure(&error).with_config(&self.config))?;
        context.output.note(
            || {
                let stores: Vec<String> =
                    made.stores.iter().map(|(_, path)| path.display().to_string()).collect();
                Object::new().with("cluster", made.cluster.to_string()).with("stores", stores)
            },
            || {
                let mut lines = vec![format!(
                    "made cluster {} of one node with {}",
                    made.cluster,
                    text::count(made.stores.len() as u64, "store")
                )];
                lines.extend(
                    made.stores.iter().map(|(store, path)| format!("  store {store} in {}", path.display())),
                );
                lines.push(start);
                lines.join("\n")
            },
        )
    }
}

impl Join {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let config = load(context, &self.config)?;
        check_places(&config)?;
        let endpoints = crate::endpoint::find(context.global.endpoint.as_deref())?;
        let patience = Duration::from_secs(context.global.timeout.map_or(JOIN_PATIENCE, u64::from));
        let mut control =
            Control::connect(&endpoints, patience).map_err(|error| local_cluster::control_failure(&error))?;
        let (node, made) = local_cluster::join(&mut control, &config)?;
        context.output.note(
            || {
                let stores: Vec<String> =
                    made.stores.iter().map(|(_, path)| path.display().to_string()).collect();
                Object::new()
                    .with("cluster", made.cluster.to_string())
                    .with("node", node.0)
                    .with("stores", stores)
            },
            || {
                format!(
                    "{} is node {} of cluster {}, with {}\nstart it: catena server --config {}",
                    config.name,
                    node.0,
                    made.cluster,
                    text::count(made.stores.len() as u64, "store"),
                    shell(self.config.as_os_str().as_bytes())
                )
            },
        )
    }
}

/// Seconds that a control group is asked for.
const JOIN_PATIENCE: u64 = 30;

impl Recover {
    fn run(self, context: &mut Context) -> Result<()> {
        if !self.accept_data_loss {
            return Err(Failure::new(Exit::Usage, "recover", "needs --accept-data-loss"));
        }
        let config = load(context, &self.config)?;
        let report = node::recover(&config, true)
            .map_err(|error| local_node::failure(&error).with_config(&self.config))?;
        context.output.note(
            || Object::new().with("cluster", report.cluster.to_string()).with("recovered", true),
            || {
                format!(
                    "recovered cluster {}; what could not be read is given up; the log above says what, as far as it is known\n\
                     start it: catena server --config {}\n\
                     then `catena verify` names every file that lost content; files whose metadata was lost are gone or in an older \
                     state, and nothing names them",
                    report.cluster,
                    shell(self.config.as_os_str().as_bytes())
                )
            },
        )
    }
}
