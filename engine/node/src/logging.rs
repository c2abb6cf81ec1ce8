//! Log lines of a process: human or JSON, on standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{ConfigError, LogFormat, LogSection};

/// What a library says about memory that can't be locked and the like. Catena says itself what is missing, once and with the mend.
const HUSHED: (&str, LevelFilter) = ("glommio", LevelFilter::ERROR);

/// Sends the process's log lines to standard error as `section` says. Call once, before a node starts; a second call keeps the first.
pub fn init(section: &LogSection) -> Result<(), ConfigError> {
    let wrong = |reason: String| ConfigError::Value { key: "log.level", reason };
    let filter = filter(&directives(&section.level).map_err(wrong)?);
    let filter = EnvFilter::try_new(filter).map_err(|error| wrong(error.to_string()))?;
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

impl LogSection {
    /// The same without what is less than a warning.
    #[must_use]
    pub fn quiet(&self) -> Self {
        let Ok(directives) = directives(&self.level) else { return self.clone() };
        let quiet = |(target, level): (_, LevelFilter)| (target, level.min(LevelFilter::WARN));
        Self { level: text(directives.into_iter().map(quiet)), ..self.clone() }
    }
}

/// A part of a filter: the module that it is about, if not all, and the least level that is shown.
pub(crate) type Directive<'a> = (Option<&'a str>, LevelFilter);

/// Takes a level or a filter such as `info,store=debug` apart. The subscriber's own parser takes a misspelt level for a module's name.
pub(crate) fn directives(text: &str) -> Result<Vec<Directive<'_>>, String> {
    text.split(',')
        .map(|part| {
            directive(part.trim()).ok_or_else(|| {
                format!(
                    "`{part}` is neither a level (off, error, warn, info, debug, trace) nor MODULE=LEVEL; write for \
                     example \"info\" or \"info,store=debug\""
                )
            })
        })
        .collect()
}

fn directive(part: &str) -> Option<Directive<'_>> {
    let (target, level) = match part.split_once('=') {
        Some((target, level)) => (Some(target), level),
        None => (None, part),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
    let is_module = target.is_none_or(|name| !name.is_empty() && name.chars().all(plain));
    level_of(level).filter(|_| is_module).map(|level| (target, level))
}

fn level_of(name: &str) -> Option<LevelFilter> {
    Some(match name.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// The subscriber's filter: what was asked for, and a library hushed that wasn't asked for by name.
fn filter(directives: &[Directive<'_>]) -> String {
    let (target, level) = HUSHED;
    let is_named = directives.iter().any(|(named, _)| named.is_some_and(|named| named.starts_with(target)));
    let is_off = directives.iter().all(|(_, level)| *level == LevelFilter::OFF);
    let hushed = (!is_named && !is_off).then_some((Some(target), level));
    text(directives.iter().copied().chain(hushed))
}

fn text<'a>(directives: impl Iterator<Item = Directive<'a>>) -> String {
    let parts = directives.map(|(target, level)| match target {
        Some(target) => format!("{target}={level}"),
        None => level.to_string(),
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_modules_are_taken_and_nothing_else() {
        for (text, shown) in [
            ("info", "info,glommio=error"),
            ("WARN", "warn,glommio=error"),
            ("off", "off"),
            ("info, store=debug", "info,store=debug,glommio=error"),
            ("info,glommio=trace", "info,glommio=trace"),
            ("engine::store=trace", "engine::store=trace,glommio=error"),
        ] {
            assert_eq!(filter(&directives(text).expect(text)), shown);
            EnvFilter::try_new(shown).expect("a filter");
        }
        for text in ["", "infoo", "info,", "5", "=info", "store=", "store=loud", "store", "a b=info"] {
            let reason = directives(text).expect_err(text);
            assert!(reason.contains("off, error, warn, info, debug, trace"), "{reason}");
        }
    }

    #[test]
    fn quiet_is_warnings_at_most() {
        for (text, quiet) in [
            ("info", "warn"),
            ("error", "error"),
            ("off", "off"),
            ("trace,store=debug,shard=error", "warn,store=warn,shard=error"),
        ] {
            let section = LogSection { level: text.into(), ..LogSection::default() };
            assert_eq!(section.quiet().level, quiet);
        }
    }
}
