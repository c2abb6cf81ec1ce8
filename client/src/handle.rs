//! The handle on the executor thread that all public types share.

use std::sync::Arc;
use std::time::Duration;

use wire::GroupId;
use wire::map::Map;
use wire::message::ShardState;
use wire::meta::{Answer, Operation, Outcome, Query};

use crate::core::UploadId;
use crate::{Config, Error, Pending, Subject, UnavailableReason};

/// A handle on the executor thread.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    deadline: Duration,
}

impl Handle {
    /// Starts the executor thread.
    pub(crate) fn start(config: Config) -> Result<Self, Error> {
        Ok(Self { deadline: config.deadline })
    }

    pub(crate) fn with_deadline(&self, deadline: Duration) -> Self {
        let _ = self.deadline;
        Self { deadline }
    }

    pub(crate) fn close(&self) {}

    pub(crate) async fn map(&self, what: &Subject) -> Result<Arc<Map>, Error> {
        let _ = what;
        todo!()
    }

    pub(crate) async fn query(&self, group: GroupId, query: Query, what: &Subject) -> Result<Answer, Error> {
        let _ = (group, query, what);
        todo!()
    }

    pub(crate) async fn mutate(
        &self,
        group: GroupId,
        upload: Option<UploadId>,
        operation: Operation,
        what: &Subject,
    ) -> Result<Outcome, Error> {
        let _ = (group, upload, operation, what);
        todo!()
    }

    pub(crate) fn start_shard_state(&self, address: &str) -> Pending<Box<ShardState>> {
        let _ = address;
        todo!()
    }

    /// The server answered something that isn't an answer to the question.
    pub(crate) fn protocol_error(&self, what: Subject) -> Error {
        let _ = self;
        Error::Unavailable {
            what,
            endpoint: "the metadata group".to_owned(),
            reason: UnavailableReason::Protocol,
        }
    }
}
