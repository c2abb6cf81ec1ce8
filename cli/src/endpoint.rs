//! Where the server is: `--endpoint`, `CATENA_ENDPOINT`, the user's file, the machine's file, in that order.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::{Exit, Failure, Result};

/// The environment's variable.
const VARIABLE: &str = "CATENA_ENDPOINT";
/// The machine's file.
const SYSTEM_FILE: &str = "/etc/catena/client.toml";
/// Addresses in one endpoint.
const ADDRESSES_MAX: usize = 256;

/// What a configuration file of the client may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// `HOST:PORT[,HOST:PORT…]`.
    endpoint: Option<String>,
}

/// The server's addresses, `HOST:PORT` each, from the first source that names some.
///
/// `argument` is `--endpoint`. An empty `CATENA_ENDPOINT` is none.
pub(crate) fn find(argument: Option<&str>) -> Result<Vec<String>> {
    if let Some(text) = argument {
        return parse(text).map_err(|reason| Failure::usage("--endpoint", reason));
    }
    if let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) {
        let text = text.to_string_lossy();
        return parse(&text).map_err(|reason| Failure::usage(VARIABLE, reason));
    }
    for file in files() {
        if let Some(text) = read(&file)? {
            return parse(&text).map_err(|reason| Failure::usage(file.display().to_string(), reason));
        }
    }
    Err(Failure::new(Exit::Unavailable, "the server", "no endpoint is configured").next(
        "pass --endpoint HOST:PORT or set CATENA_ENDPOINT; `catena dev` starts a server here and writes its endpoint to a file",
    ))
}

/// The files that may name the server, in order.
fn files() -> Vec<PathBuf> {
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    user.map(|directory| directory.join("catena/config.toml"))
        .into_iter()
        .chain([PathBuf::from(SYSTEM_FILE)])
        .collect()
}

/// The endpoint in `file`, if it exists and has one.
fn read(file: &Path) -> Result<Option<String>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(Failure::path(file, &error)),
    };
    decode(&text).map_err(|reason| {
        Failure::usage(file.display().to_string(), reason)
            .next("it may hold one key: endpoint = \"HOST:PORT\"")
    })
}

fn decode(text: &str) -> std::result::Result<Option<String>, String> {
    toml::from_str::<File>(text).map(|file| file.endpoint).map_err(|error| error.message().to_owned())
}

/// Takes `HOST:PORT[,HOST:PORT…]` apart and checks each address.
pub(crate) fn parse(text: &str) -> std::result::Result<Vec<String>, String> {
    let addresses: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
    if addresses.len() > ADDRESSES_MAX {
        return Err(format!("{} addresses are too many, {ADDRESSES_MAX} are allowed", addresses.len()));
    }
    for address in &addresses {
        let host_and_port = address.rsplit_once(':');
        let plain = |host: &str| !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']);
        let bracketed = |host: &str| {
            host.strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
        };
        let fits = host_and_port.is_some_and(|(host, port)| {
            (plain(host) || bracketed(host)) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !fits {
            return Err(format!("`{address}` is no address; write HOST:PORT, for example 127.0.0.1:7421"));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(parse("a:1, b.example:65535 ,[::1]:7421").expect("addresses").len(), 3);
        for text in
            ["", "a", "a:", ":1", "a:0", "a:65536", "a:1,", "::1:7421", "http://a:1", "[x]:1", "a b:1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_have_one_key() {
        assert_eq!(decode("endpoint = \"a:1\"").expect("a file").as_deref(), Some("a:1"));
        assert_eq!(decode("").expect("a file"), None);
        assert!(decode("endpiont = \"a:1\"").expect_err("unknown").contains("endpiont"));
        assert!(decode("endpoint = 7").is_err());
    }
}
