//! What seeds reach: a table of operations by outcomes and of faults by effects, in which every zero has an explanation.
//!
//! For each row, `often` must not be zero over the seeds that continuous integration runs: else a test has quietly stopped testing. `seldom` needs
//! luck that a few hundred seeds may not have; a zero there is explained by this list. An outcome that stands in neither list is none that
//! the operation has by its contract in `wire::meta`: a zero is right, and anything else fails.

use std::fmt::Write;

use crate::report::Tally;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// An operation, or where a fault happens.
    name: &'static str,
    often: &'static [&'static str],
    seldom: &'static [&'static str],
}

/// Rows of one kind, and the columns in their order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    title: &'static str,
    columns: &'static [&'static str],
    rows: &'static [Row],
    /// Seeds are few: of each row only the first outcome has to be reached.
    few: bool,
}

impl Table {
    /// Zeros that nothing explains, and counts that can't be.
    pub(crate) fn gaps(&self, tally: &Tally) -> Vec<String> {
        let mut gaps = Vec::new();
        for row in self.rows {
            for column in self.often(row).iter().filter(|column| tally.of(row.name, column) == 0) {
                gaps.push(format!("{}: {column} was never reached", row.name));
            }
            for column in tally.columns(row.name) {
                if !row.often.contains(&column) && !row.seldom.contains(&column) {
                    gaps.push(format!("{}: {column} is none of its outcomes", row.name));
                }
            }
        }
        gaps
    }

    /// What must be reached of a row.
    fn often(&self, row: &Row) -> &'static [&'static str] {
        if self.few { &row.often[..row.often.len().min(1)] } else { row.often }
    }

    /// Whether its rows have their columns in common.
    pub(crate) fn has_columns(&self) -> bool {
        !self.columns.is_empty()
    }

    /// The table for a person: `·` stands for what can't be, `(0)` for an explained zero, `0!` for one that isn't.
    pub(crate) fn render(&self, tally: &Tally) -> String {
        let mut text = format!("{:<16}", self.title);
        for column in self.columns {
            write!(text, " {}", heading(column)).expect("a string takes everything");
        }
        text.push('\n');
        for row in self.rows {
            write!(text, "{:<16}", row.name).expect("a string takes everything");
            for column in self.columns {
                let width = heading(column).len();
                let count = tally.of(row.name, column);
                let is_known = row.often.contains(column) || row.seldom.contains(column);
                let cell = match (count, self.often(row).contains(column), is_known) {
                    (0, true, _) => "0!".to_owned(),
                    (0, _, true) => "(0)".to_owned(),
                    (0, ..) => "·".to_owned(),
                    _ => count.to_string(),
                };
                write!(text, " {cell:>width$}").expect("a string takes everything");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }
}

/// A column's heading, wide enough for its numbers.
fn heading(column: &str) -> String {
    format!("{column:>6}")
}

/// Rows as lines: what was counted of each.
pub(crate) fn render_lines(table: &Table, tally: &Tally) -> String {
    let mut text = String::new();
    for row in table.rows {
        write!(text, "{:<16}", row.name).expect("a string takes everything");
        for column in row.often.iter().chain(row.seldom) {
            let count = tally.of(row.name, column);
            let mark = if count == 0 && row.often.contains(column) { "!" } else { "" };
            write!(text, " {column} {count}{mark} ·").expect("a string takes everything");
        }
        text.truncate(text.trim_end_matches(" ·").len());
        text.push('\n');
    }
    text
}

const fn row(name: &'static str, often: &'static [&'static str], seldom: &'static [&'static str]) -> Row {
    Row { name, often, seldom }
}

/// What every level's disks do to requests and to what wasn't flushed.
const DISK: Row = row(
    "disk",
    &[
        "bits flipped",
        "reads failed",
        "writes failed",
        "flushes failed",
        "power cuts",
        "kills",
        "sectors dropped",
        "torn cuts",
        "reordered cuts",
        "writes",
        "flushes",
    ],
    &[],
);
/// A log's lives, as the member tells them.
const LOG: Row = row(
    "log",
    &["opened", "fenced", "checkpoint", "opened after an orderly end", "kept over an orderly end"],
    &[
        "open failed",
        "checkpoint damaged",
        "checkpoint failed",
        "full",
        "file system full",
        "refused for space",
    ],
);
const CLIENT: Row = row("client", &["cancelled", "compacted"], &[]);
const CHECKER: Row = row("checker", &["checked", "unknown", "worlds at once"], &[]);
const SEED: Row = row("seed", &["verified"], &["log destroyed and said so"]);

/// Outcomes in the order of the table's columns.
const OUTCOMES: &[&str] = &[
    "ok",
    "not found",
    "exists",
    "conflict",
    "not a directory",
    "is a directory",
    "not empty",
    "cycle",
    "too many links",
    "not executed",
    "unknown",
    "no answer",
    "no bytes",
    "outlived its version",
];

/// Operations on the whole node, and on the log: bytes come from real stores there, from a map here.
pub(crate) const OPERATIONS: Table = Table {
    title: "operation",
    columns: OUTCOMES,
    few: false,
    rows: &[
        row(
            "put",
            &["ok", "not found", "not a directory", "is a directory", "not executed", "unknown"],
            &["too many links"],
        ),
        row(
            "put-conditional",
            &["ok", "not found", "exists", "conflict", "not a directory", "not executed"],
            &["is a directory", "too many links", "unknown"],
        ),
        row(
            "overwrite",
            &["ok", "not found", "exists", "conflict", "not a directory", "is a directory", "not executed"],
            &["too many links", "unknown"],
        ),
        row(
            "append",
            &["ok", "not found", "not a directory", "is a directory", "not executed"],
            &["too many links", "unknown"],
        ),
        row(
            "truncate",
            &["ok", "not found", "exists", "conflict", "not a directory", "is a directory"],
            &["too many links", "not executed", "unknown"],
        ),
        row(
            "mkdir",
            &["ok", "not found", "exists"],
            &["not a directory", "too many links", "not executed", "unknown"],
        ),
        row(
            "mkdir-parents",
            &["ok", "exists"],
            &["not found", "not a directory", "too many links", "not executed", "unknown"],
        ),
        row(
            "link",
            &["ok", "exists"],
            &["not found", "not a directory", "is a directory", "too many links", "not executed", "unknown"],
        ),
        row(
            "remove",
            &["ok", "not found", "exists", "conflict", "not a directory", "is a directory"],
            &["too many links", "not executed", "unknown"],
        ),
        row(
            "rmdir",
            &["ok", "not found", "not a directory", "not empty"],
            &["too many links", "not executed", "unknown"],
        ),
        row(
            "rename",
            &["ok", "not found", "exists", "not a directory", "is a directory", "cycle"],
            &["not empty", "too many links", "not executed", "unknown"],
        ),
        row(
            "exchange",
            &["ok", "not found", "not a directory"],
            &["cycle", "too many links", "not executed", "unknown"],
        ),
        row(
            "copy",
            &["ok", "not found", "not a directory", "is a directory"],
            &["conflict", "too many links", "not executed", "unknown"],
        ),
        row(
            "copy-range",
            &["ok", "not found", "not a directory", "is a directory"],
            &["conflict", "too many links", "not executed", "unknown"],
        ),
        row(
            "set-attributes",
            &["ok", "not found"],
            &["not a directory", "too many links", "not executed", "unknown"],
        ),
        row(
            "set-xattr",
            &["ok", "not found"],
            &["exists", "not a directory", "too many links", "not executed", "unknown"],
        ),
        row(
            "remove-xattr",
            &["not found"],
            &["ok", "not a directory", "too many links", "not executed", "unknown"],
        ),
        row("get", &["ok", "not found", "not a directory", "no answer"], &["too many links", "no bytes"]),
        row(
            "get-range",
            &["ok", "not found", "not a directory", "no answer"],
            &["too many links", "no bytes"],
        ),
        row(
            "get-long",
            &["ok", "not found", "no answer", "outlived its version"],
            &["not a directory", "too many links", "no bytes"],
        ),
        row("list", &["ok", "not found", "not a directory", "no answer"], &["too many links"]),
    ],
};

/// The same in a cluster.
pub(crate) const CLUSTER_OPERATIONS: Table = Table { few: true, ..OPERATIONS };

/// Faults on the whole node, and what came of them.
pub(crate) const NODE_FAULTS: Table = Table {
    title: "fault",
    columns: &[],
    few: false,
    rows: &[
        row(
            "fault",
            &[
                "kill",
                "power cut",
                "crash in recovery",
                "client crash",
                "client pause",
                "node pause",
                "weather",
                "partition",
                "reset",
                "slow disk",
                "disk errors",
                "full disk",
                "flipped bit",
                "broken sector",
                "lost writes",
                "clock set",
            ],
            &[],
        ),
        // As the metadata replica noticed: a step while the process is down is none.
        row("clock", &["set forward", "set back"], &[]),
        DISK,
        // Rates are low, and a node whose store reads its own lost write is soon started again.
        row("medium", &["sectors broken", "allocations refused"], &["writes lost", "writes misdirected"]),
        row(
            "network",
            &[
                "connections",
                "refused",
                "frames",
                "frames lost",
                "resets",
                "half open",
                "held back",
                "slow",
                "flips",
                "chunks delivered again",
                "mutations delivered again",
                "mutations overtaken",
            ],
            // A copy of a request arrives after its first; the log's level is where that is common.
            &["mutations answered from the results"],
        ),
        CLIENT,
        row(
            "store",
            &["opened", "fenced", "damage reported", "kept over an orderly end"],
            &["open failed", "batches reported damaged"],
        ),
        LOG,
        row("gc", &["orphans deleted", "reclaimed"], &["calls dropped"]),
        CHECKER,
        SEED,
    ],
};

/// Faults in a cluster, and what came of them.
pub(crate) const CLUSTER_FAULTS: Table = Table {
    title: "fault",
    columns: &[],
    few: false,
    rows: &[
        row(
            "fault",
            &[
                "kill",
                "power cut",
                "crash in recovery",
                "node pause",
                "weather",
                "reset",
                "slow disk",
                "disk errors",
                "isolated",
                "split",
                "one way",
                "ring",
                "control cut",
                "replaced",
                "voters",
                "min in sync",
            ],
            // Each seed leaves half of the kinds out, and there are few seeds.
            &[
                "power cut of all",
                "client crash",
                "client pause",
                "partition",
                "full disk",
                "flipped bit",
                "broken sector",
                "lost writes",
                "clock set",
            ],
        ),
        row("clock", &[], &["set forward", "set back"]),
        row(
            "disk",
            &["power cuts", "kills", "sectors dropped", "writes", "flushes"],
            &[
                "bits flipped",
                "reads failed",
                "writes failed",
                "flushes failed",
                "torn cuts",
                "reordered cuts",
            ],
        ),
        row("medium", &[], &["sectors broken", "allocations refused", "writes lost", "writes misdirected"]),
        row(
            "network",
            &[
                "connections",
                "refused",
                "frames",
                "frames lost",
                "resets",
                "half open",
                "held back",
                "chunks delivered again",
                "mutations delivered again",
                "mutations overtaken",
            ],
            &["slow", "flips", "mutations answered from the results"],
        ),
        row("client", &["cancelled", "compacted"], &[]),
        row("store", &["opened"], &["fenced", "damage reported", "open failed", "batches reported damaged"]),
        row(
            "log",
            &["opened", "checkpoint"],
            &[
                "fenced",
                "open failed",
                "checkpoint damaged",
                "checkpoint failed",
                "opened after an orderly end",
            ],
        ),
        // Lives of agents and votes, maps, and the rise of all chains' epochs together.
        row(
            "control",
            &[
                "registered",
                "elected",
                "deposed",
                "lease lost",
                "lease renewed",
                "maps",
                "epochs",
                "nodes replaced",
            ],
            &[
                "registration refused",
                "store stale",
                "store forgotten",
                "store refused",
                "voter fenced",
                "voter failed",
                "nodes given up",
            ],
        ),
        row("chain", &["caught up", "synced", "head deposed", "began anew"], &[]),
        row("gc", &["orphans deleted", "reclaimed"], &["calls dropped"]),
        CHECKER,
        row("seed", &["verified"], &[]),
    ],
};

/// The death of one node, and what of its roles it had.
pub(crate) const DEATHS: Table = Table {
    title: "death",
    columns: &[],
    few: false,
    rows: &[
        row("death", &["head", "middle", "tail", "control leader", "by power", "by a kill"], &[]),
        // How long after the death the last write was answered that it held up, and the slowest read.
        row(
            "writes resume",
            &["within 3.5 s"],
            &[
                "later",
                "within 0.5 s",
                "within 1 s",
                "within 1.5 s",
                "within 2 s",
                "within 2.5 s",
                "within 3 s",
            ],
        ),
        row(
            "slowest read",
            &[],
            &[
                "within 0.1 s",
                "within 0.5 s",
                "within 1 s",
                "within 2 s",
                "within 4 s",
                "within 10 s",
                "longer",
            ],
        ),
        row("seed", &["verified"], &[]),
    ],
};

/// Faults under the log alone, and what came of them.
pub(crate) const LOG_FAULTS: Table = Table {
    title: "fault",
    columns: &[],
    few: false,
    rows: &[
        row("fault", &["kill", "power cut", "crash in recovery", "connection lost"], &[]),
        DISK,
        row("medium", &[], &["sectors broken", "allocations refused"]),
        row("network", &["mutations answered from the results"], &[]),
        CLIENT,
        LOG,
        row("results", &["kept over an orderly end"], &[]),
        row("gc", &["orphans deleted", "reclaimed", "chunks deleted", "inventories"], &["calls dropped"]),
        CHECKER,
        SEED,
    ],
};

/// Calls of the store alone, and what went wrong.
pub(crate) const STORE: Table = Table {
    title: "store",
    columns: &[],
    few: false,
    rows: &[
        row("put", &["ok", "no space", "busy"], &["store failed", "not serving", "exists already"]),
        row(
            "conflicting put",
            &["exists already"],
            &["busy", "ok", "no space", "store failed", "not serving"],
        ),
        row("get", &["ok", "not found"], &["damaged", "store failed", "busy", "not serving"]),
        row("delete", &["ok"], &["store failed", "no space", "busy", "not serving"]),
        row("inventory", &["ok"], &["busy", "not serving"]),
        row("fault", &["kill", "power cut", "crash in recovery"], &[]),
        DISK,
        row("medium", &["sectors broken", "allocations refused", "writes lost", "writes misdirected"], &[]),
        row(
            "store",
            &[
                "opened",
                "fenced",
                "damage reported",
                "shut down",
                "space came back",
                "verified at the end",
                "kept over an orderly end",
            ],
            &["open failed", "destroyed and said so"],
        ),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table {
        few: false,
        title: "t",
        columns: &["ok", "bad", "odd"],
        rows: &[row("put", &["ok"], &["bad"])],
    };

    #[test]
    fn a_zero_without_explanation_and_a_count_that_cannot_be_are_found() {
        let mut tally = Tally::default();
        assert_eq!(TABLE.gaps(&tally), ["put: ok was never reached"]);
        assert!(TABLE.render(&tally).contains("0!"));
        tally.count("put", "ok");
        assert!(TABLE.gaps(&tally).is_empty());
        assert!(TABLE.render(&tally).contains("(0)"));
        tally.count("put", "odd");
        assert_eq!(TABLE.gaps(&tally), ["put: odd is none of its outcomes"]);
    }
}
