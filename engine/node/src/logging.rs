//! Log lines of a process: human or JSON, on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{ConfigError, LogFormat, LogSection};

/// Sends the process's log lines to standard error as `section` says. Call once, before a node starts; a second call keeps the first.
pub fn init(section: &LogSection) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&section.level)
        .map_err(|error| ConfigError::Value { key: "log.level", reason: error.to_string() })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_timer(SystemTime);
    let installed = match section.format {
        LogFormat::Human => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("log lines have a destination already");
    }
    Ok(())
}
