//! CPU time of processes, user and system together: what work costs, whoever else uses the cores. Resolution: 10 ms.

use std::time::Duration;

/// The kernel shows programs 100 ticks a second, whatever its own clock is (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// What the process `pid` has used so far, ended threads included.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn of(pid: u32) -> Duration {
    times(&format!("/proc/{pid}/stat"))[0]
}

/// What this process's children have used that have ended and were waited for.
///
/// # Panics
/// If the kernel doesn't tell.
#[must_use]
pub fn of_ended_children() -> Duration {
    times("/proc/self/stat")[1]
}

fn times(path: &str) -> [Duration; 2] {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    parse(&text).unwrap_or_else(|| panic!("{path} isn't what proc(5) says: {text}"))
}

/// A process's own time and that of its ended children: fields 14 to 17, of which the second, the name, may hold spaces.
fn parse(text: &str) -> Option<[Duration; 2]> {
    let (_, fields) = text.rsplit_once(')')?;
    let ticks: Vec<u32> =
        fields.split_whitespace().skip(11).take(4).filter_map(|word| word.parse().ok()).collect();
    match ticks[..] {
        [user, system, child_user, child_system] => {
            Some([TICK * (user + system), TICK * (child_user + child_system)])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let text = "7 (a) name) S 1 7 7 0 -1 4194560 100 0 0 0 12 30 400 5 20 0 1 0 99 1000 10\n";
        assert_eq!(parse(text), Some([Duration::from_millis(420), Duration::from_millis(4050)]));
        assert_eq!(parse("7 (name) S 1"), None);
        let before = of(std::process::id());
        let busy =
            crate::deadline::poll(Duration::from_mins(1), || (of(std::process::id()) > before).then_some(()));
        assert!(busy.is_some(), "polling takes time");
    }
}
