//! The format: what is written is read, and anything else is an error that names its line.

use super::world::Plan;
use crate::{FormatError, History, Outcome, Writer, read};

fn written(history: &History) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::whole(&mut bytes, history).expect("a vector takes everything");
    bytes
}

#[test]
fn what_is_written_is_read() {
    for seed in 0..20 {
        let history = Plan::new(seed).run();
        assert_eq!(read(&*written(&history)).expect("well-formed"), history);
    }
}

#[test]
fn a_process_that_was_killed_leaves_a_history() {
    let history = Plan::new(1).run();
    let bytes = written(&history);
    // Wherever it is cut, behind the header, what is there is read.
    let header = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    for end in (header..bytes.len() - 1).step_by(7) {
        let cut = read(&bytes[..end]).expect("a history without its end");
        assert!(!cut.is_ended && history.records.starts_with(&cut.records));
    }
    // A mutation without its second line is of unknown outcome.
    let open = r#"{"history":1,"process":4,"index":0}
{"client":0,"number":1,"began":5,"op":"delete","path":"a"}
"#;
    let found = read(open.as_bytes()).expect("well-formed");
    assert_eq!((found.records[0].ended, &found.records[0].outcome), (None, &Outcome::Unknown));
    let closed = format!(
        "{open}{}\n",
        r#"{"client":0,"number":1,"began":5,"ended":6,"op":"delete","path":"a","outcome":"failed"}"#
    );
    let found = read(closed.as_bytes()).expect("well-formed");
    assert_eq!((found.records.len(), &found.records[0].outcome), (1, &Outcome::Failed));
}

#[test]
fn what_is_no_history_is_refused() {
    let check = |text: &str, expected: &str| {
        let found = read(text.as_bytes()).expect_err(text).to_string();
        assert!(found.contains(expected), "{text}: {found}");
    };
    check("", "isn't a history");
    check("{\"client\":1}\n", "isn't a history");
    check("{\"history\":9,\"process\":1,\"index\":0}\n", "format version 9");
    let line = |rest: &str| format!("{{\"history\":1,\"process\":1,\"index\":0}}\n{rest}\n");
    check(&line("x"), "line 2");
    check(&line(r#"{"client":0,"number":0,"began":1,"op":"stat","path":"a"}"#), "has no number");
    check(&line(r#"{"client":0,"number":1,"began":2,"ended":1,"op":"stat","path":"a"}"#), "ends before");
    check(&line(r#"{"client":0,"number":1,"began":2,"op":"fly","path":"a"}"#), "operation that");
    check(&line(r#"{"client":0,"number":1,"began":2,"op":"rename","path":"a","to":"a"}"#), "to itself");
    check(&line(r#"{"client":0,"number":1,"began":2,"op":"stat","path":"a","outcome":"ok"}"#), "no end");
    check(&line(r#"{"client":0,"number":1,"began":2,"op":"stat","path":"a","colour":1}"#), "doesn't know");
    let twice = r#"{"client":0,"number":1,"began":1,"ended":2,"op":"stat","path":"a","outcome":"absent"}"#;
    check(&line(&format!("{twice}\n{twice}")), "another line");
    check(&line(&format!("{{\"end\":1}}\n{twice}")), "behind the end");
}

/// Any bytes give a history or an error.
#[test]
fn the_reader_is_total() {
    let mut random = super::world::Random(5);
    let bytes = written(&Plan::new(3).run());
    for _ in 0..3000 {
        let mut wrong = bytes.clone();
        for _ in 0..=random.below(4) {
            let at = random.index(wrong.len());
            wrong[at] = u8::try_from(random.below(256)).expect("a byte");
        }
        match read(&*wrong) {
            Ok(_) | Err(FormatError::Line { .. } | FormatError::NoHeader | FormatError::Version { .. }) => {}
            Err(FormatError::Io(error)) => panic!("{error}"),
        }
    }
}
