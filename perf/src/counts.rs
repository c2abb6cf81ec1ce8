//! Figures that a noisy machine can't fool, each with its limit.
//!
//! Memory, flushes, disk bytes and restart reads come from the shipped logic, fed with a recorded pattern of requests on a disk in memory ([`traces`],
//! [`memory`]); allocations, system calls and the client's memory from real processes ([`served`], [`client`]).

pub mod client;
pub mod memory;
pub mod served;
pub mod traces;

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use thiserror::Error;

use crate::load::LoadError;
use crate::server::ServerError;

/// What the figures from real processes need.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `counting-server` binary.
    pub server: PathBuf,
    /// The `catena` binary.
    pub catena: PathBuf,
    /// Where data may be put: on a disk that takes direct I/O.
    pub directory: PathBuf,
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Its value; `None` where this machine can't tell, and [`note`](Self::note) says why.
    pub value: Option<f64>,
    /// What it may be at most.
    pub limit: f64,
    /// Of both.
    pub unit: &'static str,
    /// What it is made of.
    pub note: String,
}

impl Figure {
    fn new(
        name: impl Into<String>,
        value: f64,
        limit: f64,
        unit: &'static str,
        note: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), value: Some(value), limit, unit, note: note.into() }
    }

    /// Whether the value doesn't break its limit; one that can't be told doesn't, and is for the caller to see to.
    pub fn is_met(&self) -> bool {
        self.value.is_none_or(|value| value <= self.limit)
    }
}

/// Whether each figure is known, or may be unknown, and keeps its limit.
pub fn are_met(figures: &[Figure], may_be_unknown: bool) -> bool {
    figures.iter().all(|figure| figure.is_met() && (may_be_unknown || figure.value.is_some()))
}

/// Why a figure can't be had.
#[derive(Debug, Error)]
pub enum CountError {
    /// The server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file or process.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// Something said what it shouldn't.
    #[error("{0}")]
    Unexpected(String),
}

/// All figures; the client's memory also over two streams of so many GiB unless 0.
pub fn all(programs: &Programs, stream_gib: u64) -> Result<Vec<Figure>, CountError> {
    let mut figures = vec![memory::index(), memory::metadata()];
    for in_flight in [1, 64] {
        figures.extend(traces::creates(in_flight));
    }
    figures.extend(traces::restarts());
    figures.extend(served::gets(programs)?);
    for in_flight in [1, 64] {
        figures.extend(served::creates(programs, in_flight)?);
    }
    figures.push(served::restart(programs)?);
    figures.extend(client::memory(programs, &[256 << 20, 512 << 20])?);
    if stream_gib > 0 {
        figures.extend(client::memory(programs, &[stream_gib << 30])?);
    }
    Ok(figures)
}

/// A Markdown table.
pub fn table(figures: &[Figure]) -> String {
    let mut out = String::from("| figure | value | at most | | made of |\n|---|---:|---:|---|---|\n");
    for figure in figures {
        let Figure { name, value, limit, unit, note } = figure;
        let value = value.map_or_else(|| "unknown".into(), |value| format!("{} {unit}", number(value)));
        let verdict = match (figure.value, figure.is_met()) {
            (None, _) => "SKIPPED",
            (_, true) => "ok",
            (_, false) => "MISSED",
        };
        writeln!(out, "| {name} | {value} | {} {unit} | {verdict} | {note} |", number(*limit))
            .expect("writing to a string");
    }
    out
}

fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.4}") }
}

/// One object.
pub fn json(figures: &[Figure]) -> Value {
    let figures: Vec<Value> = figures
        .iter()
        .map(|figure| {
            json!({
                "name": figure.name, "value": figure.value, "limit": figure.limit, "unit": figure.unit,
                "note": figure.note, "met": figure.value.map(|_| figure.is_met()),
            })
        })
        .collect();
    json!({ "v": 1, "figures": figures })
}

#[expect(clippy::cast_precision_loss, reason = "figures are for people; counts stay far below 2^53")]
fn per(count: u64, of: u64) -> f64 {
    count as f64 / of.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_limit() {
        let figure = |value| Figure::new("f", value, 0.5, "calls", "");
        assert!(figure(0.5).is_met() && !figure(0.51).is_met());
        assert!(table(&[figure(0.7)]).contains("MISSED"));
        let unknown = Figure { value: None, ..figure(0.0) };
        // System calls without strace were printed as met, and the command ended well.
        let figures = [figure(0.5), unknown];
        assert!(table(&figures).contains("SKIPPED"));
        assert_eq!(json(&figures)["figures"][1]["met"], Value::Null);
        assert_eq!(json(&figures)["figures"][0]["met"], Value::Bool(true));
        assert!(!are_met(&figures, false) && are_met(&figures, true) && are_met(&figures[..1], false));
        assert!(!are_met(&[figure(0.7)], true));
    }
}
