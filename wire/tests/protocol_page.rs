//! `docs/protocol.md` says what the code does: kinds, statuses, limits, the golden example, the ring's vectors.

use std::fs;
use std::path::Path;

use wire::limits;
use wire::{ChunkId, FrameKind, SessionId, Status};

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    fs::read_to_string(path).expect("docs/protocol.md is there")
}

/// The cells of every table row that begins with `first`.
fn rows<'a>(page: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    page.lines().filter(|line| line.starts_with('|')).map(cells).filter(|row| row[0] == first).collect()
}

#[test]
fn every_kind_is_there() {
    let page = page();
    for kind in FrameKind::ALL {
        let rows = rows(&page, &format!("`{kind:?}`"));
        assert_eq!(rows.len(), 1, "{kind:?}");
        assert_eq!(rows[0][1], (*kind as u16).to_string(), "{kind:?}");
    }
}

#[test]
fn every_status_is_there() {
    let page = page();
    for status in Status::ALL {
        let name = format!("`{status:?}`");
        let found = rows(&page, &status.code().to_string());
        assert!(found.iter().any(|row| row[1] == name), "{name} with code {}", status.code());
        let not_executed =
            page.lines().any(|line| line.starts_with("| a `Refusal` with") && line.contains(&name));
        let listed_otherwise = *status == Status::SessionExpired;
        assert_eq!(not_executed, status.is_not_executed() || listed_otherwise, "{name} (R14)");
    }
}

#[test]
fn every_limit_is_there() {
    let page = page();
    let kibibytes = |bytes: usize| format!("{} KiB", bytes >> 10);
    let bytes = |bytes: usize| format!("{bytes} bytes");
    let plain = |count: usize| count.to_string();
    for (what, limit) in [
        ("message in a frame", format!("{} MiB", limits::MESSAGE_BYTES_MAX >> 20)),
        ("payload of a frame, fragment of a chunk", kibibytes(limits::PAYLOAD_BYTES_MAX)),
        ("unit of fragments", kibibytes(limits::FRAGMENT_UNIT_BYTES)),
        ("chunk", format!("{} MiB", limits::CHUNK_BYTES_MAX >> 20)),
        (
            "a volume's chunk size: power of two",
            format!("{} KiB to {} MiB", limits::CHUNK_BYTES_MIN >> 10, limits::CHUNK_BYTES_MAX >> 20),
        ),
        ("depth of a message", plain(limits::MESSAGE_DEPTH_MAX)),
        ("tables of a message", plain(limits::MESSAGE_TABLES_MAX)),
        ("name of a file, directory or link", bytes(limits::NAME_BYTES_MAX)),
        ("path", bytes(limits::PATH_BYTES_MAX)),
        ("symbolic link's target", bytes(limits::SYMLINK_BYTES_MAX)),
        ("symbolic links followed on one path", plain(limits::SYMLINK_HOPS_MAX as usize)),
        ("extended attributes of an inode, names and values together", kibibytes(limits::XATTR_BYTES_MAX)),
        ("name of an extended attribute", bytes(limits::XATTR_NAME_BYTES_MAX)),
        ("volume's name: `[a-z0-9][a-z0-9-]{0,62}`", bytes(limits::VOLUME_NAME_BYTES_MAX)),
        ("chunks of a file", limits::FILE_EXTENTS_MAX.to_string()),
        ("roots in a message", plain(limits::MESSAGE_ROOTS_MAX)),
        ("chunk ids in a message", plain(limits::MESSAGE_CHUNKS_MAX)),
        ("entries in a page of a listing", plain(limits::LIST_ENTRIES_MAX as usize)),
        ("unacknowledged mutations of a session", plain(limits::SESSION_RESULTS_MAX)),
        ("pins of a session", plain(limits::SESSION_PINS_MAX)),
        ("name in `Hello` and of a session", bytes(limits::HELLO_NAME_BYTES_MAX)),
        ("page of the cluster map", kibibytes(limits::MAP_PAGE_BYTES)),
        ("pages of the cluster map", plain(limits::MAP_PAGES_MAX as usize)),
        ("words of a proof", plain(limits::PROOF_WORDS_MAX)),
    ] {
        let rows = rows(&page, what);
        assert_eq!(rows.len(), 1, "{what}");
        assert_eq!(rows[0][1], limit, "{what}");
    }
    assert!(page.contains("2⁶³ − 1 bytes") && limits::FILE_BYTES_MAX == (1 << 63) - 1);
}

#[test]
fn the_example_is_the_golden_frame() {
    let page = page();
    let (_, after) = page.split_once("<!-- golden: request get-chunk -->").expect("the example is there");
    let block = after.split("```").nth(1).expect("a fenced block");
    // Offset, at most 16 bytes, then a remark after three blanks.
    let hex: String = block
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(_, rest)| rest.split("   ").next().unwrap_or(rest).replace(' ', ""))
        .collect();
    let golden = include_str!("golden/frames.txt");
    let line = golden.lines().find_map(|line| line.strip_prefix("request get-chunk: "));
    assert_eq!(Some(hex.as_str()), line);
}

#[test]
fn the_rings_vectors_are_right() {
    let page = page();
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).expect("hexadecimal"),
        None => text.parse().expect("decimal"),
    };
    let start = page.find("| session | ordinal |").expect("the table is there");
    let rows: Vec<&str> = page[start..].lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let id = ChunkId { session: SessionId(number(cells[0])), ordinal: number(cells[1]) };
        assert_eq!(format!("{:016x}", wire::position(id)), cells[2]);
        assert_eq!(wire::slice_of(id, 12).to_string(), cells[3]);
    }
}
