//! What a client is started with. Every field has a default but the endpoints.

use std::time::Duration;

use crate::Error;

/// A client's configuration.
///
/// ```
/// use std::time::Duration;
/// let config = client::Config::new(["127.0.0.1:7421"]).with_deadline(Duration::from_secs(10));
/// assert_eq!(config.window_bytes, 32 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Servers to ask for the cluster map, `host:port`; any binary port of any node will do. They are tried in this order.
    pub endpoints: Vec<String>,
    /// How long one request (a metadata operation, or one chunk) is tried before it fails. A chunk whose turn on a slow link hasn't come
    /// may take ten times as long, and the time a whole transfer takes has no limit.
    pub deadline: Duration,
    /// How long the first answer of a server is waited for, at most; `deadline` where that is shorter. A server that has too many connections is there,
    /// and waited for until the deadline.
    pub connect_patience: Duration,
    /// Chunk bytes in flight and read ahead, of all transfers together. With many transfers open at once each may use one chunk beyond it.
    pub window_bytes: usize,
    /// Who this is, for the servers' logs.
    pub name: String,
    /// Seed of the jitter in retries; `None`: drawn from the operating system.
    pub seed: Option<u64>,
}

/// Default of [`Config::deadline`].
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
/// Default of [`Config::connect_patience`]: whoever types a wrong address should not wait for the deadline of a long operation.
pub const CONNECT_PATIENCE_DEFAULT: Duration = Duration::from_secs(5);
/// Default of [`Config::window_bytes`]: 32 chunks of the default size, some three times bandwidth × delay of 10 GbE at 10 ms.
pub const WINDOW_BYTES_DEFAULT: usize = 32 << 20;
/// Smallest usable [`Config::window_bytes`]: one chunk of the largest size.
pub const WINDOW_BYTES_MIN: usize = 4 << 20;

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            deadline: DEADLINE_DEFAULT,
            connect_patience: CONNECT_PATIENCE_DEFAULT,
            window_bytes: WINDOW_BYTES_DEFAULT,
            name: "client".to_owned(),
            seed: None,
        }
    }
}

impl Config {
    /// The defaults with these endpoints.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self { endpoints: endpoints.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// With another deadline of requests.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// With another patience for the first answer.
    #[must_use]
    pub fn with_connect_patience(self, connect_patience: Duration) -> Self {
        Self { connect_patience, ..self }
    }

    /// With another window.
    #[must_use]
    pub fn with_window_bytes(self, window_bytes: usize) -> Self {
        Self { window_bytes, ..self }
    }

    /// With another name.
    #[must_use]
    pub fn with_name(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Refuses what can't work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.endpoints.is_empty() || self.endpoints.iter().any(|e| !e.contains(':')) {
            return Err(Error::Configuration("endpoints"));
        }
        if self.deadline.is_zero() {
            return Err(Error::Configuration("deadline"));
        }
        if self.connect_patience.is_zero() {
            return Err(Error::Configuration("connect_patience"));
        }
        if self.window_bytes < WINDOW_BYTES_MIN {
            return Err(Error::Configuration("window_bytes"));
        }
        if self.name.len() > wire::limits::HELLO_NAME_BYTES_MAX {
            return Err(Error::Configuration("name"));
        }
        Ok(())
    }
}
