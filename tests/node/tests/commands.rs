//! What a person types: lines of a shell, what they print and how they end, against one node; and the examples of every `--help`.

use std::path::Path;
use std::time::Duration;

use harness::{Dev, Node, Run, Scratch};

/// What a line may take.
const WITHIN: Duration = Duration::from_mins(1);

/// A node, and a directory in which a shell runs.
struct Shell {
    node: Node,
    scratch: Scratch,
}

impl Shell {
    fn new() -> Self {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.join("here")).expect("a directory");
        let node = Dev::new(&scratch.join("node")).start();
        Self { node, scratch }
    }

    /// Runs a line by bash: what it printed on both streams, and its exit code.
    fn run(&self, line: &str) -> (String, i32) {
        let programs = harness::catena().parent().expect("a binary stands in a folder").display();
        let home = self.scratch.join("here/home");
        // A pipe ends as its first command that fails does.
        let script =
            format!("set -o pipefail; export PATH={programs}:$PATH HOME={}\n{HEARS}\n{line}", home.display());
        let outcome = Run::new("bash")
            .args(["-c", &format!("{{ {script}\n}} 2>&1")])
            .env("CATENA_ENDPOINT", self.node.endpoint())
            .directory(&self.scratch.join("here"))
            .within(WITHIN)
            .run();
        (outcome.text(), outcome.code())
    }

    /// Runs a line that has to go well.
    fn prepare(&self, line: &str) {
        let (printed, code) = self.run(line);
        assert_eq!(code, 0, "{line}\n{printed}");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.scratch.join("here").join(name)
    }
}

/// Whether a process is `catena` and catches SIGINT: bash starts what runs beside it with that signal ignored, and one that comes before `catena`
/// listens is lost.
const HEARS: &str = r"
hears_interrupt() {
  caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' /proc/$1/status 2>/dev/null) && grep -qx catena /proc/$1/comm && test $((0x${caught:-0} & 2)) != 0
}
";

const SOURCES: &str = r"
mkdir -p tree/sub tree/empty many
echo hello >a; echo world >b
echo 1 >tree/1; echo 2 >tree/sub/2; ln -s 1 tree/link; ln -s nowhere tree/dangling; ln tree/1 tree/hard
mkfifo tree/pipe
mkdir closed; chmod 0 closed
truncate -s 10M tree/sparse; printf x | dd of=tree/sparse bs=1 seek=5000000 conv=notrunc status=none
truncate -s 2T huge
catena volume create -q v; catena volume create -q w
catena put -q a b /v/; catena ln -q -s a /v/file-link; catena mkdir -q /v/d; catena ln -q -s d /v/directory-link
";

/// Lines, their exit codes, and what they print somewhere. Each has what the lines before it made.
const TABLE: &[(&str, i32, &str)] = &[
    // Each kind that can't be stored is named; hard links are counted; holes are no moved bytes.
    ("catena put -r tree /v/tree", 0, "tree/pipe: skipped, it is a pipe"),
    (
        "catena rm -q -r /v/tree; catena put -r tree /v/tree",
        0,
        "2 names of hard links stored as files of their own",
    ),
    ("catena cp -r /v/tree /w/tree", 0, "; 4.0 KiB in"),
    ("catena get -r /v/tree got", 0, "; 4.0 KiB in"),
    ("test $(du -k got/sparse | cut -f 1) -lt 1000 && cmp tree/sparse got/sparse", 0, ""),
    ("catena put tree/pipe /v/x", 1, "is a pipe, which can't be stored"),
    // What leads to a descriptor is what that is open on.
    ("catena put <(echo piped) /v/piped && catena cat /v/piped && catena rm /v/piped", 0, "piped\n"),
    ("cat b | catena put /dev/stdin /v/piped && catena cat /v/piped && catena rm /v/piped", 0, "world\n"),
    ("catena put /dev/stdin /v/piped <b && catena cat /v/piped && catena rm /v/piped", 0, "world\n"),
    ("catena put <(echo piped) /v/", 2, "needs a file's name to go to"),
    // A file with more bytes than its volume's chunks can hold is stored if it is a hole.
    (
        "catena put huge /v/huge && catena cp /v/huge /w/huge && catena stat /w/huge",
        0,
        "2,199,023,255,552 bytes",
    ),
    ("catena truncate --size 9E /v/a", 2, "next: a name has at most 255 bytes"),
    // Only a directory's name ends in a slash.
    ("catena stat /v/a/", 5, "/v/a/: isn't a directory"),
    ("catena ls /v/a/", 5, "isn't a directory"),
    ("catena cat /v/a/", 5, "isn't a directory"),
    ("catena get /v/a/ slash", 5, "isn't a directory"),
    ("catena cp /v/a/ /v/slash", 5, "isn't a directory"),
    ("catena mv /v/a/ /v/slash", 5, "isn't a directory"),
    ("catena rm /v/a/", 5, "isn't a directory"),
    ("catena truncate --size 1 /v/a/", 5, "isn't a directory"),
    ("catena chmod 600 /v/a/", 5, "isn't a directory"),
    ("catena xattr list /v/a/", 5, "isn't a directory"),
    ("catena touch /v/a/", 5, "isn't a directory"),
    ("catena touch /v/new/", 3, "catena mkdir -p /v/new"),
    ("catena ln -s x /v/new/", 3, "catena mkdir -p /v/new"),
    ("catena rm -r /v/directory-link/", 5, "is a symbolic link"),
    ("catena ls /v/d", 0, ""),
    ("catena ls /v/a && catena cat /v/a", 0, "hello"),
    // A damaged copy has the right checksum in the metadata: the same bytes have to be sent when that is asked for.
    ("catena put a /v/resent && catena put a /v/resent", 0, "1 file unchanged"),
    ("catena put --resend a /v/resent", 0, "stored 1 file; 6 B"),
    // Conditions hold for links and for what is fetched, too.
    ("catena put --if-absent tree/link /v/tree/link", 5, "exists already"),
    ("catena put --if-version 1 tree/link /v/tree/link", 2, "--if-version"),
    (
        "catena get --if-absent /v/a fetched && catena get --if-absent /v/a fetched",
        5,
        "fetched: exists already",
    ),
    ("catena get --if-absent /v/tree/link fetched", 5, "fetched: exists already"),
    ("catena get --if-version 1 /v/a fetched-2", 5, "another one than expected"),
    ("catena get --if-version 1 /v/a -", 5, "another one than expected"),
    ("test ! -e fetched-2", 0, ""),
    // What is no file is written into and stays, whatever links lead to it; and standard output isn't replaced by a file.
    ("ln -s /proc/self/fd/1 fake-out; catena get /v/a fake-out | cat && test -L fake-out", 0, "hello\n"),
    ("ln -s /proc/self/fd/3 fake-3; catena get -q /v/a fake-3 3>&1 | cat && test -L fake-3", 0, "hello\n"),
    ("{ echo one; catena get /v/a fake-out; echo two; } >redirected; cat redirected", 0, "one\nhello\ntwo\n"),
    ("catena get -q /v/b fake-3 3>>redirected; cat redirected; test -L fake-3", 0, "two\nworld\n"),
    (
        "mkfifo open; ln -s open to-open; (cat open >from-open) & catena get /v/a to-open && wait && cat from-open && test -p open",
        0,
        "hello",
    ),
    ("echo x >real; ln -s real to-real; catena get /v/a to-real && test -L to-real && cat real", 0, "hello"),
    ("ln -s target lost; catena get /v/a lost", 3, "is a symbolic link to target, which doesn't exist"),
    ("test -L lost && test ! -e target && catena get -n /v/a lost", 0, "1 file skipped"),
    // A link takes the place of a link, not of what that leads to.
    ("catena get /v/file-link to-real && cat real && readlink to-real", 0, "hello\na\n"),
    (
        "catena get --if-version $(catena stat --json /v/a | sed 's/.*\"version\":\\([0-9]*\\).*/\\1/') /v/a fetched-2 && cat fetched-2",
        0,
        "hello",
    ),
    // Local obstacles are conflicts with a next step.
    ("catena get /v/a a/x", 5, "next: "),
    ("catena get /v/a none/x", 3, "mkdir -p none"),
    ("catena get -r /v/d none/x", 3, "mkdir -p none"),
    ("catena get /v/a /v/b none 2>&1 | grep -c catena:", 3, "1\n"),
    ("catena put nothing /v/x", 3, "next: "),
    ("catena append tree /v/x", 5, "next: name a file"),
    ("ulimit -f 1; catena get -r /v/tree limited", 8, "limited/sparse: file too large"),
    ("find limited -name '.catena*' | grep . || echo no draft", 0, "no draft"),
    ("catena get /v/a /dev/full", 1, "next: free some space"),
    // A link to a directory is one where it is named.
    ("catena put -r tree /v/directory-link && catena cat /v/d/sub/2", 0, "2"),
    ("catena cp -r /v/tree/sub /v/directory-link && catena cat /v/d/2", 0, "2"),
    ("catena stat /v/directory-link", 0, "symlink"),
    // What can't be read is said once.
    (
        "test $(id -u) != 0 || exec setpriv --reuid 65534 --clear-groups sh -c 'catena put -r closed /v/closed'; catena put -r closed /v/closed",
        8,
        "1 name failed",
    ),
    // The next step is one that helps.
    ("catena cp -r /v/tree /v/tree/in", 5, "next: name a target outside of it"),
    ("catena put a /v/a/x", 5, "next: name a place in a directory"),
    ("catena --help >/dev/full", 1, "next: free some space"),
    ("catena debug log a", 7, "usable: not a Catena superblock; no superblock\n"),
    (
        "catena dev --dir elsewhere --listen 192.0.2.1:7420 --insecure-listen",
        1,
        "hasn't got that address\n  next: name one of its own",
    ),
    (
        "catena ln -q -s nowhere /v/lost; catena get /v/lost/ lost",
        3,
        "is a symbolic link to nowhere, which doesn't exist",
    ),
    (
        "catena --quiet dev --dir 'my demo' >dev.out 2>dev.err & pid=$!; until test -s dev.out; do kill -0 $pid || break; sleep 0.1; done; catena --endpoint $(cat dev.out) volume list; kill $pid; wait $pid; cat dev.err; cat dev.out",
        0,
        "127.0.0.1:",
    ),
    ("grep -c . dev.out; grep -c INFO dev.err", 1, "1\n0\n"),
    // Moving: the way out between volumes is the right one, wherever the target is.
    ("catena mv /v/d /w", 2, "catena cp -r /v/d /w/d && catena rm -r /v/d"),
    ("catena mv /v/d /w/tree", 2, "catena cp -r /v/d /w/tree/d && catena rm -r /v/d"),
    ("catena mv /v/d /w/new", 2, "catena cp -r /v/d /w/new && catena rm -r /v/d"),
    ("catena mv /v /w", 2, "is a volume, which can't be moved"),
    ("catena mv /v/d /v/b", 5, "/v/b: it or a part of its path is no directory"),
    ("catena mv /v/d /v/d/e", 5, "can't be moved into itself"),
    ("catena mkdir -q -p /v/to/tree/full && catena mv /v/tree /v/to", 5, "/v/to/tree: isn't empty"),
    ("catena mv --dry-run --exchange /v/a /v/b", 0, "would exchange /v/a and /v/b"),
    // A dry run fails where the move would, and what is skipped isn't moved.
    ("catena mv --dry-run /v/d /v/b", 5, "/v/b: it or a part of its path is no directory"),
    ("catena mv --dry-run /v/b /v/none/b", 3, "catena mkdir -p /v/none"),
    ("catena mv --dry-run /v/b /v/a/b", 5, "a part of the path isn't a directory"),
    ("catena mv --dry-run /v/tree /v/to", 5, "/v/to/tree: isn't empty"),
    ("catena mv --dry-run --exchange /v/a /v/none", 3, "/v/none: not found"),
    ("catena mv --dry-run --exchange /v/to /v/to/tree", 5, "into itself"),
    ("catena mv --dry-run -n /v/a /v/b", 0, "would skip /v/a: /v/b exists"),
    ("catena mv --json -n /v/a /v/b", 0, "\"moved\":false,\"skipped\":true"),
    ("catena cat /v/a", 0, "hello"),
    ("catena mkdir -p /v/a", 5, "exists and is no directory"),
    // Attributes that can't be set here are named, and cost nobody the content.
    ("catena xattr set /v/a noprefix x", 2, "next: name it user.noprefix"),
    (
        "test $(id -u) = 0 && catena put -q a /v/labelled && catena xattr set /v/labelled trusted.x y && mkdir -m 777 open-to-all && setpriv --reuid 65534 --clear-groups --bounding-set -all --inh-caps -all catena get /v/labelled open-to-all/; code=$?; test $(id -u) = 0 || { echo you may not set here; exit 1; }; cat open-to-all/labelled; exit $code",
        1,
        "you may not set here",
    ),
    ("catena xattr set /v/a user.bytes abc && catena xattr get /v/a user.bytes | wc -c", 0, "3\n"),
    ("script -qec 'catena xattr get /v/a user.bytes' /dev/null </dev/null", 0, "abc\r\n"),
    // Exit codes are those of the same failure elsewhere.
    ("catena compact /v/d", 5, "next: to compact everything in it: catena compact -r /v/d"),
    (
        "chmod 755 .; mkdir -m 555 read-only; test $(id -u) != 0 || exec setpriv --reuid 65534 --clear-groups catena quickstart --dir read-only/x a; catena quickstart --dir read-only/x a",
        4,
        "permission denied",
    ),
    // Names in next steps can be typed.
    ("catena put -q a '/v/a b'; catena stat '/v/a b/c'", 5, "see what is there: catena ls -l '/v/a b'"),
    ("catena rm '/v/a b/c'", 5, "catena ls -l '/v/a b'"),
    ("catena mkdir -q '/v/a dir'; catena rm '/v/a dir'", 5, "catena rm -r '/v/a dir'"),
    ("catena ln -s '' /v/empty", 2, "the link's target is empty"),
    // What doesn't exist is no error with -f; a missing volume is to be made only where something is made in it.
    ("catena rm -f /v/nothing /nothing/x", 0, ""),
    ("catena rm /nothing/x", 3, "next: see which there are: catena volume list"),
    ("catena put a /nothing/x", 3, "next: make it: catena volume create nothing"),
    ("catena ls -lh /v/huge", 0, "2.0 TiB"),
    ("catena ls --help", 0, "-h, --human"),
    // One file's object says which it is, as that of standard input does; a volume's name is that of its root.
    (
        "catena put --json a /v/one | sed 's/:[0-9]*,/:N,/g'",
        0,
        "{\"v\":N,\"name\":\"/v/one\",\"size\":N,\"version\":N,\"files\":N,",
    ),
    (
        "catena put --json a /v/one | sed 's/:[0-9]*,/:N,/g'",
        0,
        "\"name\":\"/v/one\",\"size\":N,\"version\":N,",
    ),
    ("catena put --json -n - /v/one </dev/null", 0, "\"name\":\"/v/one\",\"skipped\":1"),
    (
        "catena ls --json / && catena volume list --json && catena df --json v",
        0,
        "\"type\":\"volume\",\"name\":\"/v\"",
    ),
    (
        "catena ls --json / | grep -c '\"name\":\"/[vw]\"'; catena volume list --json | grep -c '\"name\":\"/[vw]\"'",
        0,
        "2\n2\n",
    ),
    // A timeout that is given is that of connecting, too.
    (
        "SECONDS=0; catena --endpoint 127.0.0.1:1 --timeout 6 ls /v; code=$?; test $SECONDS -ge 6 && exit $code",
        6,
        "",
    ),
    // Help of every command, with the options of every command; and whose help it is where a line can't be read.
    ("catena help --help", 0, "catena help volume create"),
    ("catena help --json volume create | cmp - <(catena volume create --help)", 0, ""),
    ("catena help | cmp - <(catena --help)", 0, ""),
    ("catena help frobnicate", 2, "unrecognized subcommand 'frobnicate'"),
    ("catena ls 2>&1 | tail -n 1", 2, "For more information, try 'catena ls --help'.\n"),
    ("catena truncate --size 16EiB /v/a", 2, "`16EiB` is 16 EiB or more"),
    // What isn't there isn't whole.
    ("catena verify /v/nothing", 3, "not found"),
    ("! catena verify /v/nothing 2>&1 | grep whole", 0, ""),
    ("catena verify /v/a /v/nothing", 8, "whole, as far as they could be read"),
    ("catena verify", 0, "all whole"),
    ("catena volume info nothing", 3, "catena volume list"),
    ("catena volume remove nothing", 3, "catena volume list"),
    ("catena volume remove w", 5, "catena volume remove w --recursive"),
    ("catena chown 4294967296 /v/a", 2, "no user's number"),
    // Readers that leave early end a command that reads, and don't stop one that changes.
    ("catena ls -R /v | head -n 1; echo ${PIPESTATUS[0]}", 0, "0"),
    ("catena rm -r --json /v/tree | head -n 1 >/dev/null; catena ls /v/tree", 3, "not found"),
    // A signal: 130, and nothing half-made, here or there.
    (
        "mkfifo feed; (sleep 60 >feed & echo $! >sleeper); catena put - /v/half <feed & until hears_interrupt $!; do kill -0 $! || break; sleep 0.1; done; kill -INT $!; wait $!; code=$?; kill $(cat sleeper); test $code = 130 && catena stat /v/half",
        3,
        "interrupted",
    ),
    ("ls -A | grep -c '^\\.catena' || true", 0, "0"),
    // So is a question no obstacle to a signal. A terminal that nobody types at: the pipe has a writer that writes nothing.
    (
        "catena mkdir -q -p /v/asked/x; mkfifo hold; exec 9<>hold; for signal in INT TERM HUP; do rm -f said; script -qfec 'echo $$ >asker; exec env --default-signal=INT,TERM,HUP catena rm -r /v/asked' said <&9 >script.out & until grep -q y/N said 2>script.err; do kill -0 $! || break; sleep 0.1; done; kill -$signal $(cat asker); wait $!; echo ended $?; done; catena ls /v/asked",
        0,
        "ended 130\nended 130\nended 130\nx\n",
    ),
    // A link that is named is followed.
    (
        "mkdir source; echo x >source/f; ln -s source to-source; ln -s source/f to-f; catena quickstart --quiet --dir quick to-source",
        0,
        "",
    ),
    ("catena quickstart --quiet --dir quick to-f", 0, ""),
];

#[test]
fn lines_end_as_they_should() {
    let shell = Shell::new();
    shell.prepare(SOURCES);
    for (line, code, said) in TABLE {
        let (printed, found) = shell.run(line);
        assert_eq!(found, *code, "$ {line}\n{printed}");
        assert!(printed.contains(said), "$ {line}\n{printed}");
        for forbidden in ["os error", "panicked", "Err(", "Some("] {
            assert!(!printed.contains(forbidden), "$ {line} says {forbidden}\n{printed}");
        }
        // Every error has its next step.
        let errors = printed.lines().filter(|line| line.starts_with("catena: ") && !line.contains("warning"));
        let steps = printed.lines().filter(|line| line.starts_with("  next: "));
        assert_eq!(errors.count(), steps.count(), "$ {line}\n{printed}");
    }
}

/// Commands whose output with `--json` is objects alone, one on each line, on both streams.
const JSON: &[&str] = &[
    "volume create j",
    "put a /j/a",
    "put -r tree /j/tree",
    "put a nothing /j",
    "get /j/a json-got",
    "get -r /j/tree json-tree",
    "append a /j/a",
    "write --offset 1 b /j/a",
    "truncate --size 3 /j/a",
    "ln -s a /j/l",
    "chmod 600 /j/a",
    "chown 1:2 /j/a",
    "touch /j/a",
    "xattr set /j/a user.x y",
    "xattr list /j/a",
    "xattr get /j/a user.x",
    "xattr remove /j/a user.x",
    "ls /",
    "ls -l -R /j",
    "stat /j/a /j/nothing",
    "du /j",
    "df j",
    "find /j",
    "mkdir -p /j/m/n",
    "mv /j/m /j/o",
    "mv --dry-run /j/o /j/p",
    "cp -r /j/tree /j/copy",
    "rm -r --dry-run /j/copy",
    "rm -r /j/copy",
    "rm /j/nothing",
    "compact -r /j",
    "verify /j",
    "status",
    "doctor .",
    "volume list",
    "volume info j",
    "volume remove j",
    "volume remove j --recursive --dry-run",
    "volume remove j --recursive",
    "frobnicate",
];

#[test]
fn json_is_one_object_a_line() {
    let shell = Shell::new();
    shell.prepare(SOURCES);
    for command in JSON {
        let (printed, _) = shell.run(&format!("catena {command} --json"));
        assert!(!printed.is_empty(), "{command} says nothing");
        for line in printed.lines() {
            assert!(line.starts_with("{\"v\":1,") && line.ends_with('}'), "{command} says {line}");
        }
    }
}

/// What the examples of `--help` need, and the commands whose examples are run.
const EXAMPLES_NEED: &str = r"
mkdir -p home/Pictures home/.zfunc home/.config/fish/completions
echo pixels | tee cat.jpg home/Pictures/p.jpg lock part1 part2 patch.bin >/dev/null
for volume in data logs images notes archive photos; do catena volume create -q $volume; done
for path in /images/disk /logs/today /notes/todo.txt /data/file /data/current /data/next; do
  seq 1000 | catena put -q - $path
done
tar c cat.jpg >a.tar
";

/// Commands in an order in which their examples work, each with what has to be there first.
const EXAMPLES: &[(&str, &str)] = &[
    ("volume create", "catena volume remove -q photos"),
    ("volume list", ""),
    ("volume info", ""),
    ("put", ""),
    ("get", "catena mkdir -q /photos/2026 && catena put -q cat.jpg /photos/2026/"),
    ("cat", "catena put -q a.tar /backups/a.tar"),
    ("append", ""),
    ("write", ""),
    ("truncate", ""),
    ("compact", "catena put -q cat.jpg /notes/log.txt"),
    ("ln", ""),
    ("chmod", ""),
    ("touch", ""),
    ("xattr set", ""),
    ("xattr get", ""),
    ("xattr list", ""),
    ("xattr remove", ""),
    ("ls", ""),
    ("stat", ""),
    ("du", "catena mkdir -q /photos/2025"),
    ("df", ""),
    ("find", ""),
    ("verify", ""),
    ("status", ""),
    ("cp", ""),
    ("mkdir", "catena rm -q -r /photos/2026"),
    ("mv", "catena mkdir -q /photos/a /photos/b"),
    ("rm", "catena put -q cat.jpg /photos/cat.jpg"),
    ("doctor", ""),
    ("completions", ""),
    ("man", ""),
    ("volume remove", "catena rm -q -r $(catena find /photos --max-depth 1 | grep /photos/)"),
];

/// Examples that don't end with 0 in this order, and with what they end.
const EXPECTED: &[(&str, i32)] = &[
    // It was removed by the example before.
    ("catena rm --if-version 17 /photos/cat.jpg", 3),
    // Nothing is damaged: grep finds nothing.
    ("catena verify --json / | grep '\"damage\":'", 1),
    ("catena volume remove photos --recursive --dry-run", 3),
    ("catena volume remove photos --recursive --yes", 3),
];

/// Places of a machine that a test leaves alone, and programs that it may lack.
const ELSEWHERE: &[&str] = &["/srv/", "/etc/", "/usr/", "man -l"];

#[test]
fn examples_of_help_work() {
    let shell = Shell::new();
    shell.prepare(EXAMPLES_NEED);
    let mut count = 0;
    for (command, first) in EXAMPLES {
        shell.prepare(if first.is_empty() { "true" } else { first });
        let (help, _) = shell.run(&format!("catena {command} --help"));
        let examples = help.lines().skip_while(|line| *line != "Examples:").skip(1);
        for line in examples.take_while(|line| !line.is_empty()) {
            // Behind three spaces stands what it does.
            let example = line.trim_start().split("   ").next().unwrap_or_default();
            if ELSEWHERE.iter().any(|place| example.contains(place)) {
                continue;
            }
            let (printed, code) = shell.run(example);
            let expected = EXPECTED.iter().find(|(known, _)| *known == example).map_or(0, |(_, code)| *code);
            assert_eq!(code, expected, "$ {example}\n{printed}");
            count += 1;
        }
    }
    assert!(count > 50, "only {count} examples");
    assert_eq!(std::fs::read(shell.path("home/Pictures/2026/cat.jpg")).expect("fetched"), b"pixels\n");
}

/// A second node on the same directory can't start, and took the endpoint's file of the running one away.
#[test]
fn a_second_node_leaves_the_first_one_alone() {
    let scratch = Scratch::new();
    let node = Dev::new(&scratch.join("node")).start();
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let file = scratch.join("node/endpoint");
    let before = read(&file).expect("a ready node wrote it");
    let directory = scratch.join("node");
    let second =
        Run::catena("").args(["dev".as_ref(), "--dir".as_ref(), directory.as_os_str()]).within(WITHIN).run();
    let said = second.messages();
    assert_eq!(second.code(), 5, "{said}");
    assert!(said.contains("stop the node that runs on it first"), "{said}");
    assert_eq!(read(&file), Some(before));
    let outcome = Run::catena(node.endpoint()).args(["volume", "list"]).run();
    assert_eq!(outcome.code(), 0, "{}", outcome.messages());
}
