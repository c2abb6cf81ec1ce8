//! What every command is given: global options, output, and the connection to the server, made when it is first needed.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Client, Config, Entry, InodeKind, Volume, WINDOW_BYTES_DEFAULT};

use crate::endpoint;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Output, WhenClosed};
use crate::remote::RemotePath;
use crate::remote_failure::failure;
use crate::text::quote;
use crate::walk::Walk;

/// Options that every command takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// Where the server is; else $CATENA_ENDPOINT, ~/.config/catena/config.toml or /etc/catena/client.toml
    #[arg(long, global = true, value_name = "HOST:PORT[,HOST:PORT…]", help_heading = "Global options")]
    pub(crate) endpoint: Option<String>,
    /// Print JSON: one object, lists one object per line
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Print only what was asked for, and errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Give up a request after this many seconds [default: 30, and 5 for a server's first answer]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds, help_heading = "Global options")]
    pub(crate) timeout: Option<u32>,
}

const TIMEOUT_SECONDS_MAX: u32 = 86_400;

fn seconds(text: &str) -> std::result::Result<u32, String> {
    let seconds = text.parse().ok().filter(|seconds| (1..=TIMEOUT_SECONDS_MAX).contains(seconds));
    seconds.ok_or_else(|| format!("`{text}` is no time; write whole seconds, 1 to {TIMEOUT_SECONDS_MAX}"))
}

/// A command's surroundings.
#[derive(Debug)]
pub(crate) struct Context {
    /// Options that every command takes.
    pub(crate) global: Global,
    /// Where results go.
    pub(crate) output: Output,
    /// Chunk bytes in flight. The client's memory for them is made when it starts, which is most of what a small command costs.
    pub(crate) window_bytes: usize,
    /// Whether the command makes things: only then a volume that is missing is to be made.
    pub(crate) makes: bool,
    client: Option<Client>,
    volumes: BTreeMap<String, Volume>,
}

impl Context {
    /// Surroundings without a connection yet.
    pub(crate) fn new(global: Global, when_closed: WhenClosed) -> Self {
        let output = Output::new(global.json, global.quiet, when_closed);
        Self {
            global,
            output,
            window_bytes: WINDOW_BYTES_DEFAULT,
            makes: false,
            client: None,
            volumes: BTreeMap::new(),
        }
    }

    /// The connection to the server.
    pub(crate) fn client(&mut self) -> Result<Client> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = Client::connect(self.config()?).map_err(|error| failure("the server", &error))?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// How a client connects.
    pub(crate) fn config(&self) -> Result<Config> {
        let endpoints = endpoint::find(self.global.endpoint.as_deref())?;
        let config = Config::new(endpoints);
        let config = match self.global.timeout.map(|seconds| Duration::from_secs(seconds.into())) {
            Some(deadline) => config.with_deadline(deadline).with_connect_patience(deadline),
            None => config,
        };
        Ok(config.with_window_bytes(self.window_bytes).with_name("catena"))
    }

    /// The volume with this name.
    pub(crate) fn volume(&mut self, name: &str) -> Result<Volume> {
        if let Some(volume) = self.volumes.get(name) {
            return Ok(volume.clone());
        }
        let makes = self.makes;
        let volume = self.client()?.volume(name).wait().map_err(|error| match error {
            client::Error::NotFound { .. } if makes => {
                volume_not_found(name).next(format!("make it: catena volume create {name}"))
            }
            client::Error::NotFound { .. } => volume_not_found(name),
            error => failure(format!("/{name}"), &error),
        })?;
        self.volumes.insert(name.to_owned(), volume.clone());
        Ok(volume)
    }

    /// The volume that a remote name is in.
    pub(crate) fn volume_of(&mut self, place: &RemotePath) -> Result<Volume> {
        self.volume(&place.volume)
    }

    /// Refuses a name that is written as a directory's, with a trailing `/`, and is something else's.
    pub(crate) fn check_slash(&mut self, place: &RemotePath) -> Result<()> {
        if !place.trailing_slash || place.is_root() {
            return Ok(());
        }
        match self.volume_of(place)?.stat(&place.path, true).wait() {
            Ok(entry) => no_file_with_slash(place, &entry),
            // A command that makes something says itself what it needs.
            Err(_) => Ok(()),
        }
    }

    /// What is at `place`. `follow`: a symbolic link at the place itself is followed.
    pub(crate) fn entry(&mut self, place: &RemotePath, follow: bool) -> Result<Entry> {
        let entry = self.volume_of(place)?.stat(&place.path, follow).wait();
        let entry = entry.map_err(|error| {
            if follow { self.failure_behind_links(place, &error) } else { failure(place, &error) }
        })?;
        if follow {
            no_file_with_slash(place, &entry)?;
        }
        Ok(entry)
    }

    /// The failure that `error` about what `place` leads to is: a link whose target isn't there is there itself.
    pub(crate) fn failure_behind_links(&mut self, place: &RemotePath, error: &client::Error) -> Failure {
        if let client::Error::NotFound { .. } = error
            && let Ok(Some(link)) = self.entry_if_any(place, false)
            && link.attributes.kind == InodeKind::Symlink
        {
            let target = quote(&link.target);
            let reason = format!("is a symbolic link to {target}, which doesn't exist");
            return Failure::new(Exit::NotFound, place.to_string(), reason).next(format!(
                "make what it points at, or see the link itself: catena stat {}",
                place.typed()
            ));
        }
        failure(place, error)
    }

    /// What is at `place`, if anything is. Other failures than its absence stay failures.
    pub(crate) fn entry_if_any(&mut self, place: &RemotePath, follow: bool) -> Result<Option<Entry>> {
        match self.volume_of(place)?.stat(&place.path, follow).wait() {
            Ok(entry) => Ok(Some(entry)),
            Err(client::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure(place, &error)),
        }
    }

    /// A walk of everything at `place`.
    pub(crate) fn walk(&mut self, place: &RemotePath, follow: bool) -> Result<Walk> {
        let entry = self.entry(place, follow)?;
        let volume = self.volume_of(place)?;
        Ok(Walk::new(volume, place.clone(), entry.attributes, entry.target))
    }

    /// Ends the connection in good order, so that the server need not wait for the session's expiry.
    pub(crate) fn close(&mut self) {
        self.volumes.clear();
        if let Some(client) = self.client.take() {
            client.close();
        }
    }
}

/// Only a directory's name ends in `/`.
fn no_file_with_slash(place: &RemotePath, entry: &Entry) -> Result<()> {
    if place.trailing_slash && entry.attributes.kind != InodeKind::Directory {
        return Err(Failure::new(Exit::Conflict, format!("{place}/"), "isn't a directory")
            .next(format!("write it without the / at its end: {place}")));
    }
    Ok(())
}

/// No volume of this name.
pub(crate) fn volume_not_found(name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("/{name}"), "there is no such volume")
        .next("see which there are: catena volume list")
}
