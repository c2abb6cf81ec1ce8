//! `catena server`, `catena server init`, `catena server recover`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use node::Config;
use sd_notify::NotifyState;

use crate::commands::dev::serve;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Termination;
use crate::json::Object;
use crate::local_node;
use crate::text::{self, shell};

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
}

/// What `server` does besides serving.
#[derive(Debug, clap::Subcommand)]
enum Command {
    Init(Init),
    Recover(Recover),
}

/// Format the stores and bootstrap a one-node cluster; nothing else formats
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena server init --config catena.toml")]
struct Init {
    /// The node's configuration
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
            Some(Command::Recover(command)) => command.run(context),
            None if self.print_config => context.output.bytes(Config::commented_defaults().as_bytes()),
            None => {
                let file = self.config.as_deref().expect("clap asks for it");
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
    let node = local_node::start(load(context, file)?).map_err(|failure| failure.with_config(file))?;
    let endpoint = node.endpoint();
    context.output.result(
        || {
            Object::new()
                .with("endpoint", endpoint.as_str())
                .with("admin", node.admin_address().to_string())
                .with("cluster", node.cluster().to_string())
        },
        |_| format!("ready at {endpoint}, admin at http://{}", node.admin_address()).into_bytes(),
    )?;
    context.output.finish()?;
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("serving at {endpoint}"))]);
    let outcome = serve(&node, &termination);
    notify(&[NotifyState::Stopping]);
    outcome.and(local_node::stop(node))
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
    fn run(self, context: &mut Context) -> Result<()> {
        let config = load(context, &self.config)?;
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
                lines.push(format!(
                    "start it: catena server --config {}",
                    shell(self.config.as_os_str().as_bytes())
                ));
                lines.join("\n")
            },
        )
    }
}

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
