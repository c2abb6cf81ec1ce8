//! What this machine offers: data for `catena doctor`, which explains it, and for the rows of performance tables.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};

use crate::ring::{NEEDED, Ring, RingError};
use crate::sys;

/// The state of io_uring.
#[derive(Debug)]
pub enum UringState {
    /// It works, with all operations that are needed.
    Usable {
        /// Completions are delivered when asked for (6.1); less overhead.
        deferred: bool,
        /// Vectored I/O on registered memory (6.15); less CPU for writes of many parts.
        vectored_registered: bool,
    },
    /// It doesn't, with the reason and the mend.
    Unusable(RingError),
}

/// What was found.
#[derive(Debug)]
pub struct Probe {
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// Whether the release is at least 6.1; `None` where it can't be read.
    pub kernel_is_new_enough: Option<bool>,
    /// Whether a uring can be made, and what it offers.
    pub uring: UringState,
    /// `kernel.io_uring_disabled`: 0 allowed, 1 for a group, 2 forbidden; `None` where the kernel has no such setting.
    pub uring_disabled: Option<u32>,
    /// Operations that are looked for.
    pub operations_needed: Vec<&'static str>,
    /// Limit of locked memory in bytes, soft; `u64::MAX` is none.
    pub locked_memory_limit: u64,
    /// Whether the limit doesn't apply, for the process has `CAP_IPC_LOCK` (root).
    pub locked_memory_unlimited: bool,
    /// Limit of open files, hard: a node raises the soft one itself.
    pub open_files_limit: u64,
    /// Transparent huge pages: `always`, `madvise` or `never`; empty where the kernel has none.
    pub transparent_huge_pages: String,
    /// Reserved 2 MiB pages that are free.
    pub huge_pages_free: u64,
    /// [`cpu_features_missing`].
    pub cpu_features_missing: Vec<&'static str>,
    /// The kernel's clock source; with others than `tsc`, `kvm-clock` and `arch_sys_counter` reading the clock is a system call.
    pub clock_source: String,
    /// CPUs that this process may use.
    pub cpus: usize,
}

/// Looks at the machine. Takes a few milliseconds.
pub fn probe() -> Probe {
    let kernel = read("/proc/sys/kernel/osrelease");
    Probe {
        kernel_is_new_enough: version_of(&kernel).map(|version| version >= (6, 1)),
        kernel,
        uring: uring_state(),
        uring_disabled: read("/proc/sys/kernel/io_uring_disabled").parse().ok(),
        operations_needed: NEEDED.iter().map(|&(_, name)| name).collect(),
        locked_memory_limit: sys::memlock_limit().0,
        locked_memory_unlimited: has_ipc_lock(&read("/proc/self/status")),
        open_files_limit: sys::open_files_limit().1,
        transparent_huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        huge_pages_free: read("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
            .parse()
            .unwrap_or(0),
        cpu_features_missing: cpu_features_missing(),
        clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        cpus: sys::allowed_cpus().len(),
    }
}

/// Raises this process's limit of open files as far as it may without privileges; returns the limit. Shells and service managers set a
/// soft limit of 1,024 for the sake of programs that use `select`.
pub fn raise_open_files_limit() -> u64 {
    sys::raise_open_files_limit()
}

/// CPUs that the calling thread may run on, by number; for pinning threads.
pub fn allowed_cpus() -> Vec<usize> {
    sys::allowed_cpus()
}

fn uring_state() -> UringState {
    match Ring::new(8) {
        Ok(ring) => {
            let offered = ring.offered();
            UringState::Usable { deferred: offered.deferred, vectored_registered: offered.vectored_fixed }
        }
        Err(error) => UringState::Unusable(error),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Major and minor number of a release such as `6.18.44-fc-v669`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The word in brackets of a kernel setting such as `always [madvise] never`.
fn chosen(setting: &str) -> String {
    let inside = setting.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or_else(String::new, |(word, _)| word.to_owned())
}

/// Whether `/proc/self/status` shows the effective capability `CAP_IPC_LOCK` (number 14).
fn has_ipc_lock(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> 14 & 1 == 1)
}

/// CPU features that this build uses and the CPU lacks, by their names in `/proc/cpuinfo`. That is asked, for
/// `is_x86_feature_detected!` is a constant where the compiler was told to use the feature.
pub fn cpu_features_missing() -> Vec<&'static str> {
    let lines = File::open("/proc/cpuinfo").map(|file| BufReader::new(file).lines());
    let flags =
        lines.ok().and_then(|lines| lines.map_while(Result::ok).find(|line| line.starts_with("flags")));
    flags.map_or_else(Vec::new, |flags| features_missing(&flags))
}

fn features_missing(flags: &str) -> Vec<&'static str> {
    let has = |name| flags.split_whitespace().any(|flag| flag == name);
    CPU_FEATURES.iter().filter(|(name, is_used)| *is_used && !has(*name)).map(|(name, _)| *name).collect()
}

/// Those of x86-64-v3 beside the baseline, and whether this build uses them.
const CPU_FEATURES: [(&str, bool); 7] = [
    ("avx2", cfg!(target_feature = "avx2")),
    ("bmi1", cfg!(target_feature = "bmi1")),
    ("bmi2", cfg!(target_feature = "bmi2")),
    ("f16c", cfg!(target_feature = "f16c")),
    ("fma", cfg!(target_feature = "fma")),
    ("abm", cfg!(target_feature = "lzcnt")),
    ("movbe", cfg!(target_feature = "movbe")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read() {
        assert_eq!(version_of("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version_of("5.4.0"), Some((5, 4)));
        assert_eq!(version_of("next"), None);
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen(""), "");
        assert!(has_ipc_lock("Name:\tx\nCapEff:\t0000000000004000\n"));
        assert!(!has_ipc_lock("CapEff:\t0000000000003fff\n"));
    }

    /// `is_x86_feature_detected!` found every feature that the compiler was told to use, on any CPU.
    #[test]
    fn features_are_the_cpus_and_not_the_builds() {
        let used: Vec<_> =
            CPU_FEATURES.iter().filter(|(_, is_used)| *is_used).map(|(name, _)| *name).collect();
        assert_eq!(features_missing("flags\t\t: fpu sse2 avx"), used);
        assert_eq!(features_missing(&format!("flags\t\t: fpu {}", used.join(" "))), [""; 0]);
        assert_eq!(cpu_features_missing(), [""; 0], "the test runs");
    }

    #[test]
    fn this_machine_has_a_kernel() {
        let probe = probe();
        assert!(version_of(&probe.kernel).is_some());
        assert!(probe.cpus > 0 && !probe.operations_needed.is_empty());
    }
}
