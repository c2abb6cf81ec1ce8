//! A node under real-time scheduling, alone on its core, does its work and lets others do theirs.

use std::process::Command;
use std::time::Duration;

use harness::{Deadline, Dev, Scratch, skip, wait_for};

/// The scrubber read through glommio, whose first read of a file goes to a uring that is polled. The kernel handed it to a worker of
/// the same priority, the thread polled until the read was done, and so the worker never ran: one chunk in the store, and from its
/// first second on the node used its whole core for nothing and didn't hear SIGTERM.
#[test]
fn background_reads_leave_the_core_to_others() {
    let scratch = Scratch::new();
    let mut node = Dev::new(&scratch.join("node")).start();
    let pid = node.process().pid().to_string();
    // First in, first out, on one core: a thread that spins keeps it from everybody else there, the kernel's workers included.
    for command in [["taskset", "-a", "-c", "-p", "0"], ["chrt", "-a", "-f", "-p", "1"]] {
        let done = Command::new(command[0]).args(&command[1..]).arg(&pid).output();
        if !done.is_ok_and(|output| output.status.success()) {
            return skip("real-time", "needs taskset, chrt and the right to real-time scheduling");
        }
    }
    node.run(["volume", "create", "v"]).run().ok();
    node.run(["put", "-", "/v/f"]).input(vec![7; 4096]).run().ok();
    wait_for("the scrubber's first chunk", Duration::from_secs(20), || {
        node.sample("catena_node_scrubbed_bytes_total ").filter(|bytes| *bytes > 0)
    });
    let spent = used_ticks(node.process().pid());
    let watched = Deadline::after(Duration::from_secs(20));
    // A second's rest follows each pass over the one chunk.
    wait_for("the scrubber's next chunks", Duration::from_secs(20), || {
        node.sample("catena_node_scrubbed_bytes_total ").filter(|bytes| *bytes > 3 * 4096)
    });
    let spent = used_ticks(node.process().pid()) - spent;
    let ticks = watched.elapsed().as_millis() / 10;
    assert!(u128::from(spent) * 2 < ticks, "three small reads took {spent} of {ticks} ticks");
    assert!(node.stop().success(), "SIGTERM is heard");
}

/// CPU time of a process, in ticks of a hundredth of a second.
fn used_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("the name ends").split_whitespace().collect();
    // The state is the third field of proc(5), user and system time are the 14th and 15th.
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}
