//! Frames there and back.

use std::io::Write;
use std::time::Duration;

use runtime::{CloseReason, LinkLimits};
use wire::FrameKind;

use crate::support::{Client, frame, pattern, start};

#[test]
fn messages_and_payloads_come_back() {
    let server = start(LinkLimits::default(), None);
    let mut client = Client::new(server.address);
    for (number, len) in
        [0, 1, 100, 4095, 4096, 4097, 8000, 8128, 8192, 70_000, 256 << 10].into_iter().enumerate()
    {
        let payload = pattern(number as u64, len);
        client.send(FrameKind::PutChunk, number as u64, &[], &payload);
        let (prefix, _, back) = client.receive();
        assert_eq!((prefix.correlation, back.len()), (number as u64, len));
        assert!(back == payload, "payload of {len} bytes");
    }
    for len in [0, 1, 1000, 8000, 8192, 100_000, 1 << 20] {
        let message = pattern(len as u64, len);
        client.send(FrameKind::KeepAlive, 7, &message, &[]);
        assert!(client.receive().1 == message, "message of {len} bytes");
    }
    drop(client);
    assert_eq!(server.closed(), CloseReason::Peer);
    server.stop();
}

#[test]
fn many_frames_in_one_write() {
    let server = start(LinkLimits::default(), None);
    let mut client = Client::new(server.address);
    let mut bytes = Vec::new();
    for number in 0..500_u64 {
        let message = pattern(number, usize::try_from(number % 300).expect("small"));
        let payload = pattern(number, usize::try_from(number * 37 % 5000).expect("small"));
        bytes.extend(frame(FrameKind::KeepAlive, number, &message, &[]));
        bytes.extend(frame(FrameKind::PutChunk, number, &message, &payload));
    }
    let mut writer = client.0.try_clone().expect("a second handle");
    let sender = runtime::spawn_thread("writer", None, move || writer.write_all(&bytes).expect("sent"))
        .expect("a thread");
    for number in 0..500_u64 {
        assert_eq!(client.receive().0.correlation, number);
        let (prefix, _, payload) = client.receive();
        assert_eq!(prefix.correlation, number);
        assert_eq!(payload, pattern(number, usize::try_from(number * 37 % 5000).expect("small")));
    }
    sender.join().expect("sent");
    server.stop();
}

#[test]
fn a_frame_byte_by_byte() {
    let server = start(LinkLimits::default(), None);
    let mut client = Client::new(server.address);
    let payload = pattern(3, 200);
    let message = pattern(4, 90);
    for byte in frame(FrameKind::KeepAlive, 5, &message, &[]).chunks(1) {
        client.0.write_all(byte).expect("sent");
    }
    assert_eq!(client.receive().1, message);
    for byte in frame(FrameKind::PutChunk, 6, &message, &payload).chunks(1) {
        client.0.write_all(byte).expect("sent");
    }
    assert_eq!(client.receive().2, payload);
    server.stop();
}

#[test]
fn stopping_closes_connections() {
    let server = start(LinkLimits::default(), None);
    let mut client = Client::new(server.address);
    client.send(FrameKind::KeepAlive, 1, b"x", &[]);
    client.receive();
    client.0.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
    server.stop();
    assert!(client.is_closed());
}
