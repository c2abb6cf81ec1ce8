//! `catena dev`.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::{Config, Node};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Termination;
use crate::json::Object;
use crate::local_cluster::{self, LocalCluster, NODES_MAX};
use crate::local_node::{self, Kind, NODE_DIRECTORY};
use crate::text::{count, quote, shell};

/// How often the node is asked whether something of it has failed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Several nodes have all copies within this, unless there is much to be synced.
const WHOLE_PATIENCE: Duration = Duration::from_mins(1);
/// The file in which clients find the endpoint.
const ENDPOINT_FILE: &str = "endpoint";

/// Run a node or several for development, on this machine alone
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena dev
  catena dev --dir demo --shards 2
  catena dev --dir demo --nodes 3
  export CATENA_ENDPOINT=$(cat demo/endpoint)

The data stays in DIR/node-K and is there again at the next start. One node keeps one copy, two keep two, three and more keep three. Each of several is a
process of its own: its configuration, pid and log are DIR/node-K/config.toml, pid and log, and one that was killed starts again with
`catena server --config DIR/node-K/config.toml`. A later start with more nodes adds them.")]
pub(crate) struct Dev {
    /// Where its data is kept [default: $XDG_DATA_HOME/catena/dev]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Nodes, each a process of its own [default: 1, in this process; later starts: as many as there are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: Option<u16>,
    /// Cores to use [default: all but one, at most 4; later starts: as many as at the first]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: Option<u16>,
    /// Address and first port to listen on [default: 127.0.0.1, at each start new ports from the system]
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Allow another address than loopback, although nothing authenticates clients
    #[arg(long)]
    insecure_listen: bool,
}

impl Dev {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let termination = Termination::subscribe()?;
        let directory = match &self.dir {
            Some(directory) => directory.clone(),
            None => local_node::default_directory()?,
        };
        let configured = local_cluster::configured(&directory);
        if configured > 0 || self.nodes.is_some_and(|nodes| nodes > 1) {
            return self.run_several(context, &directory, configured, &termination);
        }
        let mut config = self.config(&directory)?;
        if context.global.quiet {
            config.log = config.log.quiet();
        }
        self.warn_of_shards(context);
        node::logging::init(&config.log).map_err(|error| local_node::config_failure(&error))?;
        let endpoint_file = directory.join(ENDPOINT_FILE);
        // One that a killed node left would lead clients astray until this one is ready; that of a running node is its own.
        if !node::is_running(&config) {
            drop(fs::remove_file(&endpoint_file));
        }
        if is_free(&config.directory)? {
            local_node::format(&config)?;
        }
        let node = local_node::start(config).map_err(without_shards)?;
        local_node::write_line(&endpoint_file, &node.endpoint())?;
        announce(context, &node, &directory)?;
        let outcome = serve(&node, &termination);
        drop(fs::remove_file(&endpoint_file));
        outcome.and(local_node::stop(node))
    }

    /// As many nodes as are wanted, each a process of its own.
    fn run_several(
        &self,
        context: &mut Context,
        directory: &Path,
        configured: u16,
        termination: &Termination,
    ) -> Result<()> {
        self.check_listen()?;
        let is_single = configured == 0 && local_node::look(directory)? != Kind::Free;
        if is_single && !holds_only_endpoint(directory) {
            return Err(Failure::new(
                Exit::Conflict,
                directory.display().to_string(),
                "isn't empty, and isn't the directory of several nodes",
            )
            .next("name an empty or new directory: catena dev --nodes N --dir DIR"));
        }
        if let Some(nodes) = self.nodes.filter(|nodes| *nodes < configured) {
            let reason = format!("{nodes}: there are {} already", count(configured.into(), "node"));
            return Err(
                Failure::usage("--nodes", reason).next("leave --nodes out, or name another directory")
            );
        }
        let nodes = self.nodes.unwrap_or(configured);
        let endpoint_file = directory.join(ENDPOINT_FILE);
        drop(fs::remove_file(&endpoint_file));
        let mut cluster = LocalCluster::prepare(directory, nodes, self.listen, |own| {
            let mut config = Config::development(own, self.shards.or(Some(1)), self.listen);
            config.insecure_listen = self.insecure_listen;
            local_cluster::modest(config)
        })?;
        cluster.start(&mut |line| {
            context.output.note(|| Object::new().with("news", line), || line.to_owned())
        })?;
        cluster.wait_whole(WHOLE_PATIENCE, |_| {})?;
        local_node::write_line(&endpoint_file, &cluster.endpoint())?;
        announce_several(context, &cluster, directory)?;
        let outcome = watch(context, &mut cluster, termination);
        drop(fs::remove_file(&endpoint_file));
        outcome.and(cluster.stop())
    }

    fn check_listen(&self) -> Result<()> {
        if let Some(listen) = self.listen.filter(|listen| !listen.ip().is_loopback())
            && !self.insecure_listen
        {
            return Err(Failure::usage(
                "--listen",
                format!("{} isn't a loopback address, and nothing authenticates clients yet", listen.ip()),
            )
            .next("if this network is yours alone, say so: --insecure-listen"));
        }
        Ok(())
    }

    fn warn_of_shards(&self, context: &Context) {
        let cores = runtime::allowed_cpus().len();
        if let Some(shards) = self.shards.map(usize::from).filter(|shards| *shards > cores && cores > 0) {
            let cores = count(cores as u64, "core");
            context.output.warn(&format!(
                "--shards {shards}: there are {cores} here, and shards that share one are slower than fewer shards"
            ));
        }
    }

    fn config(&self, directory: &Path) -> Result<Config> {
        self.check_listen()?;
        match local_node::look(directory)? {
            Kind::Free | Kind::Catena => {}
            // An endpoint file or a half-formatted node isn't somebody's own data; everything else may be.
            Kind::Foreign if directory.join(NODE_DIRECTORY).is_dir() || holds_only_endpoint(directory) => {}
            Kind::Foreign => {
                return Err(Failure::new(
                    Exit::Conflict,
                    directory.display().to_string(),
                    "isn't empty and isn't Catena's",
                )
                .next("name an empty or new directory: catena dev --dir DIR"));
            }
        }
        let node_directory = directory.join(NODE_DIRECTORY);
        let shards = self
            .shards
            .map_or_else(|| local_node::formatted_shards(&node_directory), |shards| Ok(Some(shards)))?;
        let mut config = Config::development(&node_directory, shards, self.listen);
        config.insecure_listen = self.insecure_listen;
        Ok(config)
    }
}

/// There is no configuration whose number of shards could be mended, only the option.
fn without_shards(failure: Failure) -> Failure {
    if failure.exit == Exit::Usage && failure.reason.starts_with("`shards`") {
        return failure.next("leave --shards out: it keeps what it was formatted with");
    }
    failure
}

fn is_free(node_directory: &Path) -> Result<bool> {
    Ok(local_node::look(node_directory)? == Kind::Free)
}

fn holds_only_endpoint(directory: &Path) -> bool {
    fs::read_dir(directory)
        .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == ENDPOINT_FILE))
}

fn announce(context: &mut Context, node: &Node, directory: &Path) -> Result<()> {
    let endpoint = node.endpoint();
    let (quiet, admin) = (context.global.quiet, node.admin_address());
    context.output.result(
        || {
            Object::new()
                .with("endpoint", endpoint.as_str())
                .with("admin", admin.to_string())
                .with("cluster", node.cluster().to_string())
                .with("directory", directory.display().to_string())
        },
        |_| {
            if quiet {
                endpoint.clone().into_bytes()
            } else {
                lines(&endpoint, admin, directory).into_bytes()
            }
        },
    )?;
    context.output.finish()
}

/// What a person reads. Paths are absolute: the line is pasted into another shell, which may be elsewhere.
fn lines(endpoint: &str, admin: SocketAddr, directory: &Path) -> String {
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let file = shell(directory.join(ENDPOINT_FILE).as_os_str().as_bytes());
    let data = quote(directory.join(NODE_DIRECTORY).as_os_str().as_bytes());
    format!(
        "ready     {endpoint}\n\
         use it    export CATENA_ENDPOINT=$(cat {file})\n\
         admin     http://{admin}/metrics\n\
         data      {data}, one copy of everything: no redundancy\n\
         stop      Ctrl-C"
    )
}

fn announce_several(context: &mut Context, cluster: &LocalCluster, directory: &Path) -> Result<()> {
    let (endpoint, quiet) = (cluster.endpoint(), context.global.quiet);
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let file = shell(directory.join(ENDPOINT_FILE).as_os_str().as_bytes());
    let configs: Vec<String> =
        (0..cluster.len()).map(|at| cluster.config_file(at).display().to_string()).collect();
    let copies = cluster.len().min(3);
    context.output.result(
        || {
            Object::new()
                .with("endpoint", endpoint.as_str())
                .with("admin", (0..cluster.len()).map(|at| cluster.admin(at).to_string()).collect::<Vec<_>>())
                .with("configurations", configs.clone())
                .with("copies", copies as u64)
                .with("directory", directory.display().to_string())
        },
        |_| {
            if quiet {
                return endpoint.clone().into_bytes();
            }
            let last = configs.last().map_or_else(String::new, |config| shell(config.as_bytes()));
            format!(
                "ready     {} at {endpoint}\n\
                 use it    export CATENA_ENDPOINT=$(cat {file})\n\
                 admin     http://{}/metrics and so on\n\
                 data      {}/node-K, {} of everything; each has its config.toml, pid and log\n\
                 restart   catena server --config {last}\n\
                 stop      Ctrl-C",
                count(cluster.len() as u64, "node"),
                cluster.admin(0),
                quote(directory.as_os_str().as_bytes()),
                if copies == 2 { "two copies" } else { "three copies" },
            )
            .into_bytes()
        },
    )?;
    context.output.finish()
}

/// Waits until the cluster is to end; says which nodes have ended meanwhile.
fn watch(context: &mut Context, cluster: &mut LocalCluster, termination: &Termination) -> Result<()> {
    loop {
        if termination.wait(CHECK_INTERVAL).is_some() {
            return Ok(());
        }
        for (at, how) in cluster.ended() {
            let config = cluster.config_file(at);
            context.output.warn(&format!(
                "node-{} has ended ({how}); start it again: catena server --config {}",
                at + 1,
                shell(config.as_os_str().as_bytes())
            ));
        }
    }
}

/// Waits until the node is to end, or can't go on.
pub(crate) fn serve(node: &Node, termination: &Termination) -> Result<()> {
    loop {
        if let Some(signal) = termination.wait(CHECK_INTERVAL) {
            node.begin_stop(signal);
            return Ok(());
        }
        if let Some(reason) = node.failed() {
            return Err(Failure::new(Exit::Failed, "the node", reason)
                .next("its log says more; start it again when that is mended"));
        }
    }
}

/// `IP`, `IP:PORT` or `[IP]:PORT`.
fn parse_listen(text: &str) -> std::result::Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>();
    let alone = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
    with_port
        .or(alone)
        .map_err(|_| format!("`{text}` is no address; write for example 127.0.0.1 or 127.0.0.1:7420"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pasted_works_anywhere() {
        let admin = "127.0.0.1:7".parse().expect("an address");
        let here = std::env::current_dir().expect("a directory");
        let lines = lines("127.0.0.1:8", admin, Path::new("my demo/x"));
        let expected =
            format!("use it    export CATENA_ENDPOINT=$(cat '{}/my demo/x/endpoint')", here.display());
        assert_eq!(lines.lines().nth(1), Some(expected.as_str()));
        assert!(lines.lines().all(|line| !line.starts_with("data      my")), "{lines}");
    }

    /// A node without a configuration file was told to mend its configuration.
    #[test]
    fn another_number_of_shards_is_mended_by_none() {
        let (configured, formatted) = ("1".to_owned(), "2".to_owned());
        let changed = node::Error::Changed { key: "shards", configured, formatted };
        let failure = without_shards(local_node::failure(&changed));
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.next.is_some_and(|next| next.starts_with("leave --shards out")));
    }

    #[test]
    fn addresses_may_have_a_port() {
        assert_eq!(parse_listen("127.0.0.1").map(|a| a.port()), Ok(0));
        assert_eq!(parse_listen("127.0.0.1:7").map(|a| a.port()), Ok(7));
        assert_eq!(parse_listen("[::1]:7").map(|a| a.port()), Ok(7));
        assert!(parse_listen("localhost").is_err());
    }
}
