//! `catena doctor`: what this machine lacks, with evidence and the mend.

use std::path::{Path, PathBuf};

use runtime::{LOCKED_MEMORY_BYTES_MIN, Probe, UringState};

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::text::size;

/// Check whether this machine can run a node well: kernel, io_uring, memory, file system, clock
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena doctor
  catena doctor /srv/disk-0
  catena doctor --json")]
pub(crate) struct Doctor {
    /// Directories that are to hold a node's data
    #[arg(default_value = ".")]
    directories: Vec<PathBuf>,
}

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// It works, slower or with less than it could.
    Fair,
    /// A node can't run so.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
struct Check {
    name: String,
    verdict: Verdict,
    evidence: String,
    mend: Option<String>,
}

/// Memory that can be locked for the buffers of one shard by default.
const LOCKED_MEMORY_WANTED: u64 = 256 << 20;
/// Open files for a few thousand connections.
const OPEN_FILES_WANTED: u64 = 8192;
/// Free space below which a node has no room to work.
const FREE_BYTES_MIN: u64 = 1 << 30;

impl Doctor {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut checks = machine(&runtime::probe());
        checks.extend(self.directories.iter().flat_map(|directory| disk(directory)));
        for check in &checks {
            context.output.result(|| check.object(), |_| check.lines().into_bytes())?;
        }
        let bad = checks.iter().filter(|check| check.verdict == Verdict::Bad).count();
        if bad > 0 {
            return Err(Failure::new(Exit::Failed, "this machine", "can't run a node as it is")
                .next("mend what is marked `bad` above"));
        }
        context.output.line("a node can run here")
    }
}

impl Check {
    fn new(name: &str, verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict, evidence: evidence.into(), mend: None }
    }

    fn mend(mut self, mend: &str) -> Self {
        self.mend = (self.verdict != Verdict::Good).then(|| mend.to_owned());
        self
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Good => "good",
            Verdict::Fair => "fair",
            Verdict::Bad => "bad",
        }
    }

    fn lines(&self) -> String {
        let line = format!("{:<4}  {:<14} {}", self.word(), self.name, self.evidence);
        match &self.mend {
            Some(mend) => format!("{line}\n      {:<14} mend: {mend}", ""),
            None => line,
        }
    }

    fn object(&self) -> Object {
        Object::new()
            .with("check", self.name.as_str())
            .with("verdict", self.word())
            .with("evidence", self.evidence.as_str())
            .with_some("mend", self.mend.as_deref())
    }
}

fn graded(good: bool, otherwise: Verdict) -> Verdict {
    if good { Verdict::Good } else { otherwise }
}

/// What the probe of the machine says.
fn machine(probe: &Probe) -> Vec<Check> {
    let kernel = match probe.kernel_is_new_enough {
        Some(new_enough) => graded(new_enough, Verdict::Bad),
        None => Verdict::Fair,
    };
    let huge =
        matches!(probe.transparent_huge_pages.as_str(), "always" | "madvise") || probe.huge_pages_free > 0;
    let setting =
        if probe.transparent_huge_pages.is_empty() { "absent" } else { &probe.transparent_huge_pages };
    let missing = probe.cpu_features_missing.join(", ");
    vec![
        Check::new("kernel", kernel, format!("Linux {}", probe.kernel)).mend("Linux 6.1 or newer is needed"),
        uring(probe),
        locked_memory(probe.locked_memory_limit, probe.locked_memory_unlimited),
        Check::new("huge pages", graded(huge, Verdict::Fair), format!("transparent: {setting}, reserved and free: {}", probe.huge_pages_free))
            .mend("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled; without it large transfers are cut into small ones"),
        Check::new("open files", graded(probe.open_files_limit >= OPEN_FILES_WANTED, Verdict::Fair), format!("limit {}", size::grouped(probe.open_files_limit)))
            .mend("`LimitNOFILE=65536` in a unit, `ulimit -Hn` in a shell; it bounds connections"),
        Check::new("cpu", graded(missing.is_empty(), Verdict::Bad), if missing.is_empty() { format!("{} usable cores, all features", probe.cpus) } else { format!("lacks {missing}") })
            .mend("this build needs x86-64-v3; build for this CPU without `target-cpu` in .cargo/config.toml"),
        clock(&probe.clock_source),
    ]
}

/// The least limit holds for everybody; what is above it, for those without a privilege.
fn locked_memory(limit: u64, unlimited: bool) -> Check {
    if limit < LOCKED_MEMORY_BYTES_MIN {
        let needed = size::human(LOCKED_MEMORY_BYTES_MIN);
        let evidence = format!("limit {}, and io_uring needs {needed} at least", size::human(limit));
        return Check::new("locked memory", Verdict::Bad, evidence)
            .mend("raise it, best to what the buffers take: `LimitMEMLOCK=infinity` in a unit, `ulimit -l` in a shell");
    }
    if unlimited || limit == u64::MAX {
        return Check::new("locked memory", Verdict::Good, "unlimited for this process");
    }
    Check::new("locked memory", graded(limit >= LOCKED_MEMORY_WANTED, Verdict::Fair), format!("limit {}", size::human(limit)))
        .mend("raise it to what the buffers take, `LimitMEMLOCK=infinity` in a unit, `ulimit -l` in a shell; without it I/O costs more CPU")
}

fn uring(probe: &Probe) -> Check {
    match &probe.uring {
        UringState::Usable { deferred, vectored_registered } => {
            let offers = [
                (deferred, "deferred completions (6.1)"),
                (vectored_registered, "vectored registered I/O (6.15)"),
            ];
            let (has, lacks): (Vec<_>, Vec<_>) = offers.into_iter().partition(|(offered, _)| **offered);
            let names = |list: &[(&bool, &'static str)]| {
                list.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
            };
            let mut evidence = format!(
                "usable; offers {}",
                if has.is_empty() { "no extras".to_owned() } else { names(&has) }
            );
            if !lacks.is_empty() {
                evidence = format!("{evidence}; a newer kernel adds {}", names(&lacks));
            }
            Check::new("io_uring", graded(*deferred, Verdict::Fair), evidence)
                .mend("a newer kernel does the same with less overhead")
        }
        UringState::Unusable(error) => {
            let sysctl = probe
                .uring_disabled
                .map_or_else(String::new, |value| format!(" (kernel.io_uring_disabled = {value})"));
            Check::new("io_uring", Verdict::Bad, format!("{error}{sysctl}")).mend("allow it: `sysctl kernel.io_uring_disabled=0`; in a container, a seccomp profile that allows io_uring_*")
        }
    }
}

fn clock(source: &str) -> Check {
    let fast = matches!(source, "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page");
    let shown = if source.is_empty() { "unknown" } else { source };
    Check::new("clock", graded(fast, Verdict::Fair), format!("source {shown}"))
        .mend("boot with `clocksource=tsc` where the CPU's is reliable; others cost a system call a reading")
}

/// What a directory offers to a node's data.
fn disk(directory: &Path) -> Vec<Check> {
    let name = directory.display().to_string();
    let system = match runtime::file_system(directory) {
        Ok(system) => system,
        Err(error) => {
            return vec![
                Check::new(
                    "directory",
                    Verdict::Bad,
                    format!("{name}: {}", crate::failure::io_reason(&error)),
                )
                .mend("make it, or name another one"),
            ];
        }
    };
    let in_memory = matches!(system.name.as_str(), "tmpfs" | "ramfs");
    let direct = runtime::takes_direct_io(directory);
    let (direct_verdict, direct_evidence) = match &direct {
        Ok(true) => (Verdict::Good, "taken".to_owned()),
        Ok(false) => (Verdict::Bad, format!("refused by {}", system.name)),
        Err(error) => (Verdict::Bad, crate::failure::io_reason(error)),
    };
    let proven = matches!(system.name.as_str(), "ext4" | "xfs");
    vec![
        Check::new(
            "file system",
            if in_memory { Verdict::Bad } else { graded(proven, Verdict::Fair) },
            format!("{} at {name}", system.name),
        )
        .mend("ext4 or xfs on a disk of its own; a file system in memory keeps nothing"),
        Check::new("direct I/O", direct_verdict, format!("{direct_evidence} at {name}"))
            .mend("put the data on a file system that takes O_DIRECT and lets this user write"),
        Check::new(
            "space",
            graded(system.free_bytes >= FREE_BYTES_MIN, Verdict::Bad),
            format!(
                "{} free of {} at {name}",
                size::human(system.free_bytes),
                size::human(system.total_bytes)
            ),
        )
        .mend("a shard needs 1 GiB at least"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_a_mend_and_what_is_good_has_none() {
        for check in machine(&runtime::probe()).into_iter().chain(disk(Path::new("/proc"))) {
            assert_eq!(check.mend.is_some(), check.verdict != Verdict::Good, "{}", check.name);
            assert!(!check.evidence.is_empty() && !check.evidence.contains("os error"), "{}", check.evidence);
        }
    }

    /// With 64 KiB it said that a node can run here, and the node refused to start.
    #[test]
    fn too_little_locked_memory_is_bad() {
        for (limit, unlimited, verdict) in [
            (64 << 10, false, Verdict::Bad),
            (64 << 10, true, Verdict::Bad),
            ((512 << 10) - 1, false, Verdict::Bad),
            (512 << 10, false, Verdict::Fair),
            (8 << 20, true, Verdict::Good),
            (256 << 20, false, Verdict::Good),
            (u64::MAX, false, Verdict::Good),
        ] {
            assert_eq!(locked_memory(limit, unlimited).verdict, verdict, "{limit} {unlimited}");
        }
    }

    #[test]
    fn a_missing_directory_is_bad() {
        let checks = disk(Path::new("/nowhere/at/all"));
        assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Bad));
    }
}
