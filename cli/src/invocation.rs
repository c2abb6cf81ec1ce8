//! Which command this process was asked for, as a person types it, so that an error can name the right help. Pure but for the
//! process's own arguments.

use std::ffi::{OsStr, OsString};

/// `catena volume create`: what this process was called with, as far as it names commands.
pub(crate) fn command() -> String {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    named(&crate::command::definition(), &arguments)
}

/// The command that arguments name. Options are passed over, with the value behind them where they take one.
fn named(definition: &clap::Command, arguments: &[OsString]) -> String {
    let (mut path, mut command) = ("catena".to_owned(), definition);
    let mut rest = arguments.iter().map(OsString::as_os_str);
    while let Some(word) = rest.next() {
        if let Some(inner) = command.find_subcommand(word) {
            path = format!("{path} {}", inner.get_name());
            command = inner;
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            break;
        } else if takes_value(definition, word) {
            rest.next();
        }
    }
    path
}

/// Whether the next argument is the value of this one, an option of every command.
fn takes_value(definition: &clap::Command, option: &OsStr) -> bool {
    definition.get_arguments().any(|argument| {
        let named = argument.get_long().is_some_and(|long| option == format!("--{long}").as_str());
        named && argument.get_action().takes_values()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_found_between_options() {
        for (line, command) in [
            ("", "catena"),
            ("put", "catena put"),
            ("--json put f", "catena put"),
            ("--endpoint ls put f ls", "catena put"),
            ("--endpoint=x -q --timeout 3 volume --json create Bad", "catena volume create"),
            ("volume frobnicate create", "catena volume"),
            ("frobnicate put", "catena"),
            ("ls put", "catena ls"),
        ] {
            let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(named(&crate::command::definition(), &arguments), command, "{line}");
        }
    }
}
