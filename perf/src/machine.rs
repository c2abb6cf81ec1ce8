//! Under which conditions a figure was measured, each from evidence.

use std::path::Path;
use std::process::Command;

use runtime::ceiling::loopback_congestion;

use crate::server::Server;

/// Kernel and its congestion control, processor, commit.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) commit: String,
    /// Load average over the last minute, when the run began.
    pub(crate) load: String,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: format!(
                "{} with TCP {}, over loopback {}",
                read("/proc/sys/kernel/osrelease").trim(),
                read("/proc/sys/net/ipv4/tcp_congestion_control").trim(),
                loopback_congestion().as_deref().unwrap_or("unknown")
            ),
            processor: processor.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            commit: commit().unwrap_or_else(|| "unknown".into()),
            load: read("/proc/loadavg").split(' ').next().unwrap_or("unknown").to_owned(),
        }
    }
}

/// The commit of the tree that this is run in, with a mark if the tree differs from it.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=10", "HEAD"])?;
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if is_clean { head } else { format!("{head} with changes") })
}

/// Interrupts of devices that each core has taken since the machine started.
pub(crate) fn interrupts() -> Vec<u64> {
    counts(&std::fs::read_to_string("/proc/interrupts").unwrap_or_default())
}

/// Of the table's lines those that have a number: devices. Lines with names are the processor's own: timers, calls between cores.
fn counts(table: &str) -> Vec<u64> {
    let mut lines = table.lines();
    let mut sums = vec![0; lines.next().map_or(0, |head| head.split_whitespace().count())];
    for line in lines {
        let Some((name, rest)) = line.split_once(':') else { continue };
        if name.trim().parse::<u32>().is_ok() {
            for (sum, count) in sums.iter_mut().zip(rest.split_whitespace()) {
                *sum += count.parse::<u64>().unwrap_or(0);
            }
        }
    }
    sums
}

/// The core that devices interrupted most between two looks; `None`: none did.
pub(crate) fn interrupted_core(before: &[u64], after: &[u64]) -> Option<usize> {
    let grown = after.iter().zip(before).map(|(after, before)| after.saturating_sub(*before));
    let (count, core) = grown.zip(0..).max_by_key(|&(count, core)| (count, std::cmp::Reverse(core)))?;
    (count > 0).then_some(core)
}

/// What the kernel says of a server: its files, memory and threads.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    /// Whether the store's file is open with `O_DIRECT`.
    pub(crate) direct: bool,
    /// Whether its buffers are registered with io_uring: it says so where they aren't.
    pub(crate) registered: bool,
    /// Bytes of its anonymous memory on 2 MiB pages.
    pub(crate) huge_bytes: u64,
    /// The cores that the shard's and the metadata replica's threads may run on.
    pub(crate) pinning: String,
}

impl Conditions {
    pub(crate) fn look(server: &Server) -> Self {
        let process = format!("/proc/{}", server.pid());
        let rollup = std::fs::read_to_string(format!("{process}/smaps_rollup")).unwrap_or_default();
        let kilobytes = |key: &str| {
            let found = rollup.lines().find_map(|line| line.strip_prefix(key));
            let number = found.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
            number.unwrap_or(0)
        };
        let huge = kilobytes("AnonHugePages:") + kilobytes("Private_Hugetlb:") + kilobytes("Shared_Hugetlb:");
        Self {
            direct: is_store_direct(Path::new(&process)),
            registered: !server.log().contains("can't be registered"),
            huge_bytes: huge << 10,
            pinning: pinning(Path::new(&process)),
        }
    }
}

/// Whether the process has its store open, and every descriptor of it past the page cache.
fn is_store_direct(process: &Path) -> bool {
    const O_DIRECT: u32 = 0o40_000;
    let Ok(entries) = std::fs::read_dir(process.join("fd")) else { return false };
    let stores = entries.flatten().filter(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.extension().is_some_and(|e| e == "store"))
    });
    let flags: Vec<Option<u32>> = stores
        .map(|entry| {
            let info = std::fs::read_to_string(process.join("fdinfo").join(entry.file_name())).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            u32::from_str_radix(flags.trim(), 8).ok()
        })
        .collect();
    !flags.is_empty() && flags.iter().all(|flags| flags.is_some_and(|flags| flags & O_DIRECT != 0))
}

fn pinning(process: &Path) -> String {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        if let (Some(name), Some(cores)) = (field("Name:"), field("Cpus_allowed_list:"))
            && (name.starts_with("shard-") || name == "metadata")
        {
            found.push(format!("{name} on {cores}"));
        }
    }
    found.sort();
    found.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_of_a_device_is_the_most_interrupted_one() {
        let before =
            "       CPU0 CPU1\n 28:  5  0  PCI-MSIX  0-edge  disk\nLOC: 900 10 Local timer interrupts\n";
        let after =
            "       CPU0 CPU1\n 28:  6  90  PCI-MSIX  0-edge  disk\nLOC: 9000 10 Local timer interrupts\n";
        assert_eq!(counts(before), [5, 0]);
        assert_eq!(interrupted_core(&counts(before), &counts(after)), Some(1));
        assert_eq!(interrupted_core(&counts(before), &counts(before)), None);
        assert_eq!(interrupted_core(&[], &counts("")), None);
    }
}
