//! The table, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Pair, Result, Row};
use crate::machine::{Conditions, Machine};
use crate::text;

/// Everything that a run measured.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) machine: Machine,
    pub(super) conditions: Conditions,
    pub(super) client: String,
    pub(super) results: Vec<Result>,
}

/// A client that is busier than this may be what limits the row.
const CLIENT_BUSY_MAX: f64 = 0.95;

/// Pairs without which a row says little.
const PAIRS_MIN: usize = 5;

fn verdict(result: &Result, conditions: &Conditions) -> &'static str {
    match (result.is_void(), result.row.is_met(result.ratio().0), lacks(result, conditions).is_empty()) {
        (true, _, _) => "VOID",
        (false, false, _) => "MISSED",
        (false, true, false) => "indicative",
        (false, true, true) => "ok",
    }
}

/// What a row lacks to be more than an indication.
fn lacks(result: &Result, conditions: &Conditions) -> Vec<String> {
    let mut lacks = Vec::new();
    if result.pairs.len() < PAIRS_MIN {
        lacks.push(format!("{} pairs instead of {PAIRS_MIN}", result.pairs.len()));
    }
    if !conditions.direct {
        lacks.push("the store is not on direct I/O".into());
    }
    if !conditions.registered {
        lacks.push("buffers are not registered".into());
    }
    let unzeroed: u64 = result.pairs.iter().map(|pair| pair.measured.unzeroed).sum();
    if unzeroed > 0 {
        lacks.push(format!("{unzeroed} segments were not zeroed: slower flushes than the row asks for"));
    }
    lacks
}

impl Report {
    /// Whether every row is valid, complete and met.
    pub fn is_met(&self) -> bool {
        self.results.iter().all(|result| verdict(result, &self.conditions) == "ok")
    }

    /// The table as Markdown, and what belongs to it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut say = |line: String| writeln!(out, "{line}").expect("writing to a string");
        let Machine { kernel, processor, cores, commit, load } = &self.machine;
        say(format!(
            "{processor}, {cores} cores, kernel {kernel}, commit {commit}; load average {load} at the beginning"
        ));
        let Conditions { direct, registered, huge_bytes, pinning } = &self.conditions;
        say(format!(
            "server: store {}, buffers {}, {} MiB on 2 MiB pages, {pinning}; client: {}",
            if *direct { "O_DIRECT" } else { "WITHOUT O_DIRECT" },
            if *registered { "registered" } else { "NOT REGISTERED" },
            huge_bytes >> 20,
            self.client
        ));
        say(String::new());
        say("| figure | limit | median | spread | verdict |".into());
        say("|---|---:|---:|---:|---|".into());
        for result in &self.results {
            let (median, least, most) = result.ratio();
            let (limit, below) = result.row.limit();
            say(format!(
                "| {} | {} {limit:.2} | {median:.2} | {least:.2}–{most:.2} | {} |",
                result.row.text(),
                if below { "≤" } else { "≥" },
                verdict(result, &self.conditions)
            ));
        }
        for result in &self.results {
            say(String::new());
            say(format!("{}:", result.row.name()));
            for pair in &result.pairs {
                say(format!("- {:.2}: {}", pair.ratio(result.fio), pair_text(pair)));
            }
            if let (Some(fio), Some(disk)) = (result.fio, result.disk()) {
                say(format!("- fio's disk {}, ours at best {}", text::rate(fio), text::rate(disk)));
            }
            for remark in remarks(result, &self.conditions) {
                say(format!("- {remark}"));
            }
        }
        out
    }

    /// The same as one object.
    pub fn json(&self) -> Value {
        let Machine { kernel, processor, cores, commit, load } = &self.machine;
        let Conditions { direct, registered, huge_bytes, pinning } = &self.conditions;
        json!({
            "v": 1,
            "machine": { "kernel": kernel, "processor": processor, "cores": cores, "commit": commit, "load": load },
            "conditions": {
                "o_direct": direct, "registered": registered, "huge_page_bytes": huge_bytes,
                "pinning": pinning, "client": self.client,
            },
            "rows": self.results.iter().map(|result| row_json(result, &self.conditions)).collect::<Vec<_>>(),
            "met": self.is_met(),
        })
    }
}

fn pair_text(pair: &Pair) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let (median, tail) = (pair.measured.latency.0 as f64, pair.measured.latency.1 as f64);
    format!(
        "{} of {}; p50 {}, p99 {}; server {:.0} % busy, client {:.0} %",
        pair.measured.text,
        pair.limit.text,
        text::nanoseconds(median),
        text::nanoseconds(tail),
        pair.measured.server_busy * 100.0,
        pair.measured.client_busy * 100.0
    )
}

/// What a reader has to know before the ratio is believed.
fn remarks(result: &Result, conditions: &Conditions) -> Vec<String> {
    let mut remarks = Vec::new();
    let busy = text::spread(result.pairs.iter().map(|pair| pair.measured.client_busy));
    if result.row != Row::Create
        && let Some((median, _, _)) = busy.filter(|(median, _, _)| *median > CLIENT_BUSY_MAX)
    {
        remarks.push(format!("the client's core was {:.0} % busy: it may be the limit", median * 100.0));
    }
    remarks.extend(lacks(result, conditions).into_iter().map(|lack| format!("only indicative: {lack}")));
    let low = result.pairs.iter().filter(|pair| pair.shortfall(result.fio).is_some()).count();
    if low > 0 {
        remarks.push(format!(
            "in {low} of {} pairs fio's disk stands for ours, which was lower",
            result.pairs.len()
        ));
    }
    if result.is_void() {
        remarks.push("fio gets more out of the disk than our ceiling: the row is void".into());
    }
    if result.fio.is_none() && result.disk().is_some() {
        remarks.push("fio isn't installed, or failed: the ceiling is unchecked".into());
    }
    remarks
}

fn row_json(result: &Result, conditions: &Conditions) -> Value {
    let (median, least, most) = result.ratio();
    let pairs: Vec<Value> = result
        .pairs
        .iter()
        .map(|pair| {
            json!({
                "ceiling": pair.limit.value, "catena": pair.measured.value, "ratio": pair.ratio(result.fio),
                "client_busy": pair.measured.client_busy, "server_busy": pair.measured.server_busy,
                "p50_ns": pair.measured.latency.0, "p99_ns": pair.measured.latency.1,
                "unzeroed_segments": pair.measured.unzeroed,
            })
        })
        .collect();
    json!({
        "row": result.row.name(), "limit": result.row.limit().0, "median": median, "least": least,
        "most": most, "verdict": verdict(result, conditions), "lacks": lacks(result, conditions), "fio_bytes_per_second": result.fio, "pairs": pairs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One pair, or buffers that aren't registered, or segments that weren't zeroed, and the row was "ok" all the same.
    #[test]
    fn a_row_that_lacks_something_is_indicative() {
        let result = |pairs: usize, value: f64, unzeroed: u64| Result {
            row: Row::PutLarge,
            pairs: (0..pairs).map(|_| Pair::sample(10.0, value, unzeroed)).collect(),
            fio: Some(9.0),
        };
        let whole = Conditions { direct: true, registered: true, huge_bytes: 0, pinning: "pinned".into() };
        assert_eq!(verdict(&result(5, 9.0, 0), &whole), "ok");
        assert_eq!(verdict(&result(1, 9.0, 0), &whole), "indicative");
        assert_eq!(verdict(&result(5, 9.0, 1), &whole), "indicative");
        assert_eq!(verdict(&result(5, 9.0, 0), &Conditions { direct: false, ..whole.clone() }), "indicative");
        assert_eq!(
            verdict(&result(5, 9.0, 0), &Conditions { registered: false, ..whole.clone() }),
            "indicative"
        );
        assert_eq!(verdict(&result(1, 5.0, 0), &whole), "MISSED");
        let void = Result { fio: Some(11.0), ..result(5, 9.0, 0) };
        assert_eq!(verdict(&void, &whole), "VOID");
    }
}
