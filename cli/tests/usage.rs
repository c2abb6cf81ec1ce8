//! Command lines and their exit codes, as far as they need no server: a table, and what an error must look like.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the binary in an empty directory, without any configuration of this machine.
fn catena(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).output().expect("the binary runs")
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("CATENA_ENDPOINT")
        .env("XDG_CONFIG_HOME", directory);
    command.env_remove("XDG_DATA_HOME").env("HOME", directory).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Command lines, their exit codes, and what standard error has to contain.
const TABLE: &[(&[&str], i32, &str)] = &[
    // Help and version are no errors.
    (&["--help"], 0, ""),
    (&["--version"], 0, ""),
    (&["put", "--help"], 0, ""),
    (&["completions", "bash"], 0, ""),
    (&["man"], 0, ""),
    (&["server", "--print-config"], 0, ""),
    (&["help"], 0, ""),
    (&["help", "put"], 0, ""),
    (&["help", "volume", "create"], 0, ""),
    // Usage.
    (&["help", "frobnicate"], 2, "unrecognized subcommand"),
    (&[], 2, "Usage: catena"),
    (&["frobnicate"], 2, "unrecognized subcommand"),
    (&["put", "f"], 2, "SRC… DST"),
    (&["ls"], 2, "PATH"),
    (&["ls", "v/a"], 2, "isn't a remote name"),
    (&["ls", "/V"], 2, "can't be a volume's name"),
    (&["ls", "/v/../w"], 2, "`..`"),
    (&["put", "f", "v/a"], 2, "isn't a remote name"),
    (&["put", "f", "-", "/v/a"], 2, "only source"),
    (&["put", "f", "f", "/v/a", "--if-version", "3"], 2, "one file"),
    (&["put", "f", "/v/a", "--if-absent", "--no-clobber"], 2, "cannot be used with"),
    (&["put", "-j", "0", "f", "/v/a"], 2, "0 is not in 1..=256"),
    (&["get", "/v/a", "/v/b", "--range", "0-1", "d"], 2, "one file"),
    (&["get", "/v/a", "x", "--range", "5-2"], 2, "ends before it begins"),
    (&["get", "-r", "/v/a", "-"], 2, "standard output"),
    (&["chmod", "999", "/v/a"], 2, "no mode"),
    (&["truncate", "--size", "big", "/v/a"], 2, "no size"),
    (&["truncate", "--size", "-5", "/v/a"], 2, "`-5` is no size"),
    (&["write", "--offset", "-1", "f", "/v/a"], 2, "`-1` is no size"),
    (&["rm", "--if-version", "x", "/v/a"], 2, "`x` is no version"),
    (&["touch", "--date", "yesterday", "/v/a"], 2, "no time"),
    (&["find", "/v", "--type", "x"], 2, "no type"),
    (&["ln", "a", "/v/a"], 2, "--symbolic"),
    (&["mv", "/v/a", "/w/a"], 2, "another volume"),
    (&["mv", "/v", "/v/a"], 2, "which can't be moved"),
    (&["rm", "-r", "/v"], 2, "catena volume remove v --recursive"),
    (&["volume", "create", "Photos"], 2, "volume's name"),
    (&["volume", "create", "bad_name"], 2, "next: `catena volume create --help` shows"),
    (&["ls", "/photos/../x"], 2, "next: `catena ls --help` shows"),
    (&["--endpoint", "foo", "du", "/v"], 2, "next: `catena du --help` shows"),
    (&["xattr", "set", "/v/a", "", "Ada"], 2, "the attribute's name: is empty"),
    (&["xattr", "get", "/v/a", ""], 2, "the attribute's name: is empty"),
    (&["volume", "create", "v", "--chunk-size", "5000"], 2, "power of two"),
    (&["--endpoint", "nowhere", "ls", "/v"], 2, "no address"),
    (&["--timeout", "0", "ls", "/v"], 2, "whole seconds, 1 to 86400"),
    (&["server"], 2, "--config"),
    (&["server", "recover", "--config", "f"], 2, "--accept-data-loss"),
    (&["server", "--config", "bad.toml"], 2, "colour"),
    (&["server", "--config", "latin.toml"], 2, "UTF-8"),
    (&["server", "--config", "level.toml"], 2, "`infoo` is neither a level"),
    (&["server", "--config", "cores.toml"], 2, "there is no core 100000"),
    (&["dev", "--listen", "localhost"], 2, "no address"),
    (
        &["dev", "--dir", "public", "--listen", "0.0.0.0"],
        2,
        "next: if this network is yours alone, say so: --insecure-listen",
    ),
    // Not found.
    (&["server", "init", "--config", "unmounted.toml"], 3, "mount its disk, or make it: mkdir -p nowhere"),
    (&["server", "--config", "missing.toml"], 3, "no such file"),
    (&["quickstart", "missing"], 3, "no such file"),
    (&["debug", "store", "missing"], 3, "no such file"),
    (&["debug", "store", "foreign"], 3, "shard-N.store"),
    (&["debug", "log", "foreign"], 3, "metadata.log"),
    // Somebody else's directory is left alone.
    (&["quickstart", "f", "--dir", "foreign"], 5, "nothing was touched"),
    (&["dev", "--dir", "foreign"], 5, "isn't Catena's"),
    (&["dev", "--dir", "f"], 5, "next: "),
    // No server.
    (&["ls", "/v"], 6, "no endpoint is configured"),
    (&["--endpoint", "127.0.0.1:1", "--timeout", "1", "ls", "/v"], 6, "127.0.0.1:1"),
    (
        &["--endpoint", "127.0.0.1:1", "--timeout", "1", "put", "f", "/v/a"],
        6,
        "next: check that the server runs",
    ),
    // Damage.
    (&["debug", "store", "zeros.store"], 7, "no superblock"),
    // This machine.
    (&["doctor", "missing"], 1, "can't run a node"),
];

#[test]
fn exit_codes_and_reasons() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("f"), b"x").expect("written");
    fs::create_dir(directory.path().join("foreign")).expect("made");
    fs::write(directory.path().join("foreign/thesis.txt"), b"precious").expect("written");
    fs::write(directory.path().join("bad.toml"), b"colour = \"red\"\n").expect("written");
    fs::write(directory.path().join("latin.toml"), b"name = \"\xe9\"\n").expect("written");
    let unmounted = b"directory = \"new\"\n[[disks]]\npath = \"nowhere\"\ncapacity = \"2GiB\"\n";
    fs::write(directory.path().join("unmounted.toml"), unmounted).expect("written");
    for (name, line) in [("level.toml", "log = { level = \"infoo\" }"), ("cores.toml", "cores = [100000]")] {
        let text = format!("{line}\n[[disks]]\npath = \".\"\ncapacity = \"400GiB\"\n");
        fs::write(directory.path().join(name), text).expect("written");
    }
    fs::write(directory.path().join("zeros.store"), vec![0; 1 << 20]).expect("written");
    for (arguments, code, reason) in TABLE {
        check(directory.path(), arguments, *code, reason);
    }
    check(directory.path(), &["ls", &format!("/v/{}", "n".repeat(256))], 2, "256 bytes long");
    check(directory.path(), &["ls", &format!("/v/{}", "d/".repeat(2049))], 2, "4097 bytes long");
    assert!(directory.path().join("foreign/thesis.txt").exists());
    // What is refused makes nothing.
    assert!(!directory.path().join("public").exists() && !directory.path().join("new").exists());
}

fn check(directory: &Path, arguments: &[&str], code: i32, reason: &str) {
    let output = catena(directory, arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(error.contains(reason), "{arguments:?}: {error}");
    for forbidden in ["os error", "panicked", "Err(", "Some(", "unwrap"] {
        assert!(!error.contains(forbidden), "{arguments:?} says {forbidden}: {error}");
    }
    if code == 0 {
        assert!(error.is_empty() && !output.stdout.is_empty(), "{arguments:?}: {error}");
    }
}

#[test]
fn errors_are_objects_with_json() {
    let directory = tempfile::tempdir().expect("a directory");
    for (arguments, code) in
        [(&["--json", "ls", "/v"][..], 6), (&["ls", "--json", "nothing"], 2), (&["--json", "put", "f"], 2)]
    {
        let output = catena(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(code));
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one object");
        assert_eq!(error["v"], 1);
        assert_eq!(error["error"]["exit"], code);
        assert!(error["error"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{error}");
    }
    // What is missing is named, and the next step is the command's own help.
    let output = catena(directory.path(), &["--json", "put"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one object");
    assert!(error["error"]["reason"].as_str().is_some_and(|reason| reason.contains("SRC")), "{error}");
    assert_eq!(error["error"]["next"], "catena put --help");
}

#[test]
fn the_endpoint_comes_from_the_first_source_that_names_one() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("catena")).expect("made");
    let file = directory.path().join("catena/config.toml");
    let refused = |arguments: &[&str], variable: Option<&str>| {
        let mut command =
            command(directory.path(), &[&["--timeout", "1"], arguments, &["ls", "/v"]].concat());
        if let Some(value) = variable {
            command.env("CATENA_ENDPOINT", value);
        }
        let output = command.output().expect("the binary runs");
        (output.status.code(), text(&output.stderr))
    };
    let check = |(code, error): (Option<i32>, String), expected: i32, named: &str| {
        assert!(code == Some(expected) && error.contains(named), "{expected} {named}: {code:?} {error}");
    };
    fs::write(&file, "endpoint = \"127.0.0.1:3\"\n").expect("written");
    check(refused(&["--endpoint", "127.0.0.1:1"], Some("127.0.0.1:2")), 6, "127.0.0.1:1");
    check(refused(&[], Some("127.0.0.1:2")), 6, "127.0.0.1:2");
    check(refused(&[], None), 6, "127.0.0.1:3");
    check(refused(&[], Some("")), 6, "127.0.0.1:3");
    check(refused(&[], Some("x")), 2, "CATENA_ENDPOINT");
    fs::write(&file, "endpiont = \"127.0.0.1:3\"\n").expect("written");
    check(refused(&[], None), 2, "config.toml");
}

#[test]
fn a_closed_pipe_is_quiet_and_a_full_disk_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = command(directory.path(), &["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));

    let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
    let output =
        command(directory.path(), &["completions", "bash"]).stdout(full).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("standard output: no space left on device"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn hostile_arguments_are_shown_harmlessly() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = command(directory.path(), &["ls"]);
    let output = command.arg(OsStr::from_bytes(b"a\x1b[31m\xff\n")).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        !output.stderr.contains(&0x1b) && text(&output.stderr).contains(r"$'a\x1b[31m\xff\n'"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = catena(directory.path(), &["man", "--dir", "man1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut names: Vec<String> = fs::read_dir(directory.path().join("man1"))
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    for name in
        ["catena.1", "catena-put.1", "catena-volume-create.1", "catena-server-init.1", "catena-debug-store.1"]
    {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    let again = text(&catena(directory.path(), &["man", "--dir", "man1", "--json"]).stdout);
    assert_eq!(again, format!("{{\"v\":1,\"directory\":\"man1\",\"pages\":{}}}\n", names.len()));
    let page = fs::read_to_string(directory.path().join("man1/catena-put.1")).expect("readable");
    assert!(page.contains("standard input") && page.contains(".SH EXAMPLES"), "{page}");
}

#[test]
fn every_shell_gets_completions() {
    let directory = tempfile::tempdir().expect("a directory");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = catena(directory.path(), &["completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("quickstart"), "{shell}");
    }
}

#[test]
fn printed_configuration_is_usable() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = catena(directory.path(), &["server", "--print-config"]);
    fs::write(directory.path().join("catena.toml"), &output.stdout).expect("written");
    // It is read and accepted; what it names was never formatted.
    let output = catena(directory.path(), &["server", "--config", "catena.toml"]);
    assert!(text(&output.stderr).contains("isn't a Catena node's directory"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(3));
}
