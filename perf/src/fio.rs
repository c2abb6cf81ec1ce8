//! The disk's ceilings once more, by `fio` where it is installed: a ceiling of ours below fio's would flatter Catena.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

/// One of fio's loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FioLoad {
    /// fio's `rw`: `read`, `write`, `randread`.
    pub(crate) kind: &'static str,
    pub(crate) operation_bytes: usize,
    pub(crate) depth: u32,
}

/// Bytes a second that fio gets in `directory`, from a file of its own; `None` where there is no fio, or it fails.
pub(crate) fn measure(
    directory: &Path,
    file_bytes: u64,
    load: FioLoad,
    time: Duration,
    core: usize,
) -> Option<f64> {
    let output = Command::new("fio")
        .args(["--name=ceiling", "--ioengine=io_uring", "--direct=1", "--fixedbufs", "--registerfiles"])
        .args(["--overwrite=1", "--time_based", "--output-format=json", "--mem=mmap", "--thread"])
        .arg(format!("--directory={}", directory.display()))
        .arg("--filename=fio-ceiling")
        .arg(format!("--size={file_bytes}"))
        .arg(format!("--rw={}", load.kind))
        .arg(format!("--bs={}", load.operation_bytes))
        .arg(format!("--iodepth={}", load.depth))
        .arg(format!("--runtime={}", time.as_secs().max(1)))
        .arg(format!("--cpus_allowed={core}"))
        .output()
        .ok()?;
    bandwidth(&String::from_utf8_lossy(&output.stdout), load.kind)
}

fn bandwidth(text: &str, kind: &str) -> Option<f64> {
    // Warnings may stand before the object.
    let value: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let side = if kind.ends_with("read") { "read" } else { "write" };
    value.get("jobs")?.get(0)?.get(side)?.get("bw_bytes")?.as_f64().filter(|rate| *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_in_fios_report() {
        let text = "note: something\n{\"jobs\":[{\"read\":{\"bw_bytes\":12345},\"write\":{\"bw_bytes\":0}}]}";
        assert_eq!(bandwidth(text, "randread"), Some(12345.0));
        assert_eq!(bandwidth(text, "write"), None);
        assert_eq!(bandwidth("fio: no", "read"), None);
    }
}
