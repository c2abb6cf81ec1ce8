//! The client: a handle on the executor thread, and what concerns the cluster as a whole.

use std::sync::Arc;
use std::time::Duration;

use placement::ClusterMap;
use wire::GroupId;
use wire::limits::LIST_ENTRIES_MAX;
use wire::meta::{Answer, Operation, Query, VolumeInfo, VolumePolicy};

use crate::handle::Handle;
use crate::{ClusterStatus, Config, Error, Pending, Subject, UnavailableReason, Volume};

/// A client of one cluster. Clones share one executor thread, its connections and its session; the last one's drop ends it.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Handle,
}

impl Client {
    /// Starts the executor thread and fetches the cluster map from the first endpoint that answers. Blocks until then, or until the
    /// configured deadline, at most [`Config::connect_patience`]; a server that has too many connections is there, and waited for until the deadline.
    ///
    /// Errors: [`Error::Configuration`], [`Error::Start`], [`Error::Unavailable`], [`Error::Timeout`].
    pub fn connect(config: Config) -> Result<Self, Error> {
        config.check()?;
        let patience = config.connect_patience;
        Self::with_handle(Handle::start(config)?, patience)
    }

    /// A client around a running thread.
    pub(crate) fn with_handle(handle: Handle, patience: Duration) -> Result<Self, Error> {
        let client = Self { handle };
        let deadline = client.handle.deadline();
        let first = client.handle.with_deadline(deadline.min(patience));
        let connected = crate::pending::block_on(first.map(&Subject::Cluster));
        let is_full =
            matches!(&connected, Err(Error::Unavailable { reason: UnavailableReason::Connections, .. }));
        let rest = deadline.saturating_sub(patience);
        if is_full && !rest.is_zero() {
            crate::pending::block_on(client.handle.with_deadline(rest).map(&Subject::Cluster))?;
        } else {
            connected?;
        }
        Ok(client)
    }

    /// The same client with another deadline of requests.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { handle: self.handle.with_deadline(deadline) }
    }

    /// All volumes, in order of their names.
    pub fn volumes(&self) -> Pending<Vec<VolumeInfo>> {
        let handle = self.handle.clone();
        Pending::start(async move {
            let mut volumes: Vec<VolumeInfo> = Vec::new();
            loop {
                let after = volumes.last().map_or_else(String::new, |last| last.name.clone());
                let query = Query::ListVolumes { after, limit: LIST_ENTRIES_MAX };
                let Answer::Volumes(page, end) = handle.query(NAMES, query, &Subject::Cluster).await? else {
                    return Err(handle.protocol_error(Subject::Cluster));
                };
                let is_empty = page.is_empty();
                volumes.extend(page);
                if end || is_empty {
                    return Ok(volumes);
                }
            }
        })
    }

    /// The volume of this name. [`Error::NotFound`] where there is none: nothing makes a volume implicitly.
    pub fn volume(&self, name: &str) -> Pending<Volume> {
        let (handle, name) = (self.handle.clone(), name.to_owned());
        Pending::start(async move {
            let what = Subject::Volume(name.clone());
            match handle.query(NAMES, Query::Volume { name }, &what).await? {
                Answer::Volume(info) => Ok(Volume::new(handle, info)),
                _ => Err(handle.protocol_error(what)),
            }
        })
    }

    /// Makes a volume. [`Error::AlreadyExists`] where the name is taken, [`Error::BadRequest`] where the name isn't `[a-z0-9][a-z0-9-]{0,62}`
    /// or the policy's chunk size is none.
    pub fn create_volume(&self, name: &str, policy: VolumePolicy) -> Pending<Volume> {
        let (client, name) = (self.clone(), name.to_owned());
        Pending::start(async move {
            let what = Subject::Volume(name.clone());
            let operation = Operation::CreateVolume { name: name.clone(), policy };
            client.handle.mutate(NAMES, None, operation, &what).await?;
            client.volume(&name).await
        })
    }

    /// Removes a volume. Without `recursive`: [`Error::NotEmpty`] where it has entries. With it, everything in it goes.
    pub fn remove_volume(&self, name: &str, recursive: bool) -> Pending<()> {
        let (client, name) = (self.clone(), name.to_owned());
        Pending::start(async move {
            let volume = client.volume(&name).await?.info().volume;
            let operation = Operation::RemoveVolume { volume, recursive };
            client.handle.mutate(NAMES, None, operation, &Subject::Volume(name)).await?;
            Ok(())
        })
    }

    /// The cluster map by which requests are routed now.
    pub fn cluster_map(&self) -> Pending<Arc<ClusterMap>> {
        let handle = self.handle.clone();
        Pending::start(async move { handle.map(&Subject::Cluster).await })
    }

    /// The cluster map, each shard's state and the metadata group's. A shard that doesn't answer is an error in its own row.
    pub fn status(&self) -> Pending<ClusterStatus> {
        let handle = self.handle.clone();
        Pending::start(async move { crate::status::collect(&handle).await })
    }

    /// Closes the sessions and ends the executor thread, so that the server need not wait for their expiry. Pending operations fail with
    /// [`Error::Unavailable`]. Happens also when the last clone is dropped.
    pub fn close(self) {
        self.handle.close();
    }
}

/// Volumes' names live in group 0 (R27).
pub(crate) const NAMES: GroupId = GroupId(0);
