//! The yardsticks give plausible figures in short runs.

use std::time::Duration;

use runtime::ceiling::{
    Ceiling, DiskLoad, NetworkLoad, Order, Scratch, disk_read, disk_write, tcp_echo, tcp_stream,
};

use crate::files::directory;

fn plausible(what: &str, ceiling: Ceiling) {
    eprintln!(
        "{what}: {:.0}/s, {:.1} MB/s, {:.2} µs CPU, depth {}, huge {}, registered {}",
        ceiling.operations_per_second,
        ceiling.bytes_per_second / 1e6,
        ceiling.cpu_nanoseconds / 1e3,
        ceiling.depth,
        ceiling.huge_pages,
        ceiling.registered
    );
    // Something was moved; how fast is the machine's affair.
    assert!(ceiling.operations_per_second > 0.1 && ceiling.bytes_per_second > 400.0, "{what}: {ceiling:?}");
    assert!(ceiling.cpu_nanoseconds > 0.0 && ceiling.cpu_nanoseconds < 1e9, "{what}: {ceiling:?}");
}

#[test]
fn disk() {
    let directory = directory();
    let scratch = Scratch::new(directory.path(), 64 << 20).expect("a file");
    let load = |operation_bytes, order, flush| DiskLoad {
        operation_bytes,
        depths: vec![4, 16],
        order,
        flush,
        time: Duration::from_millis(100),
    };
    let large = load(1 << 20, Order::Sequential, false);
    let small = load(4096, Order::Random, false);
    plausible("read 1 MiB", disk_read(&scratch, &large).expect("measured").expect("depths"));
    plausible("write 1 MiB", disk_write(&scratch, &large).expect("measured").expect("depths"));
    plausible("read 4 KiB", disk_read(&scratch, &small).expect("measured").expect("depths"));
    let durable = load(4096, Order::Sequential, true);
    plausible("write 4 KiB, flushed", disk_write(&scratch, &durable).expect("measured").expect("depths"));
    assert!(Scratch::new(&directory.path().join("nothing"), 1).is_err());
}

#[test]
fn network() {
    let load = |message_bytes| NetworkLoad {
        message_bytes,
        depths: vec![1, 16],
        time: Duration::from_millis(100),
        cpus: None,
    };
    plausible("stream", tcp_stream(&load(256 << 10)).expect("measured"));
    plausible("echo", tcp_echo(&load(4096)).expect("measured").expect("depths"));
}
