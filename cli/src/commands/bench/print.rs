//! What a run prints: a table for people, an object for programs.

use std::fmt::Write as _;

use loadgen::{Counted, Kind, Options, Report};
use serde_json::Value;

use crate::failure::Result;
use crate::json::Object;
use crate::output::Output;
use crate::text::size;
use crate::text::time;

/// Prints a run's report.
pub(super) fn report(output: &mut Output, report: &Report, options: &Options, profile: &str) -> Result<()> {
    output.result(|| object(report, options, profile), |_| table(report, options, profile).into_bytes())
}

fn object(report: &Report, options: &Options, profile: &str) -> Object {
    let operations = report.by_kind().filter(|(_, counted)| is_used(counted)).map(|(kind, counted)| {
        let object = Object::bare().with("operation", kind.name());
        let object = object.with("ok", counted.ok).with("absent", counted.absent);
        let object = object.with("failed", counted.failed).with("unknown", counted.unknown);
        let object =
            object.with("bytes", counted.bytes).with("per_second", per_second(counted.answered(), report));
        let latency = &counted.latencies;
        to_value(
            &object
                .with("latency_ns_mean", rounded(latency.mean()))
                .with("latency_ns_p50", latency.quantile(0.5))
                .with("latency_ns_p90", latency.quantile(0.9))
                .with("latency_ns_p99", latency.quantile(0.99))
                .with("latency_ns_p999", latency.quantile(0.999))
                .with("latency_ns_max", latency.longest()),
        )
    });
    let errors = report.errors.iter().map(|(kind, count)| {
        let first = report.first_errors.get(kind).cloned().unwrap_or_default();
        to_value(&Object::bare().with("kind", format!("{kind:?}")).with("count", *count).with("first", first))
    });
    let wrong = &report.wrong;
    Object::new()
        .with("profile", profile)
        .with("volume", options.volume.as_str())
        .with("directory", report.directory.as_str())
        .with("clients", options.profile.clients)
        .with("in_flight", options.profile.in_flight)
        .with("seed", options.seed)
        .with("process", options.process)
        .with("nanoseconds", report.nanoseconds)
        .with("filled", report.filled)
        .with("operations", operations.collect::<Vec<Value>>())
        .with("per_second", per_second(report.total(Counted::answered), report))
        .with("bytes_per_second", per_second(report.total(|counted| counted.bytes), report))
        .with("errors", errors.collect::<Vec<Value>>())
        .with("lost", wrong.lost)
        .with("stale", wrong.stale)
        .with("torn", wrong.torn)
        .with("corrupt", wrong.corrupt)
        .with("examples", wrong.examples.clone())
        .with("generator_cpu_ns", report.generator_cpu_nanoseconds)
}

fn to_value(object: &Object) -> Value {
    serde_json::to_value(object).expect("an object of plain values can be written")
}

fn is_used(counted: &Counted) -> bool {
    counted.answered() + counted.failed + counted.unknown > 0
}

fn per_second(count: u64, report: &Report) -> u64 {
    let per_second = u128::from(count) * 1_000_000_000 / u128::from(report.nanoseconds.max(1));
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of latencies up to ten minutes"
)]
fn rounded(number: f64) -> u64 {
    number.round() as u64
}

const HEAD: [&str; 10] =
    ["operation", "answered", "/s", "bytes/s", "p50", "p99", "p99.9", "longest", "failed", "unknown"];

fn table(report: &Report, options: &Options, profile: &str) -> String {
    let mut out = format!(
        "{profile}: {} clients, {} in flight each, seed {}, {} in /{}/{}\n",
        size::grouped(options.profile.clients.into()),
        options.profile.in_flight,
        options.seed,
        time::duration(report.nanoseconds),
        options.volume,
        report.directory
    );
    let rows = report
        .by_kind()
        .filter(|(_, counted)| is_used(counted))
        .map(|(kind, counted)| row(kind, counted, report));
    let rows: Vec<[String; 10]> = std::iter::once(HEAD.map(str::to_owned)).chain(rows).collect();
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let written =
                if column == 0 { write!(out, "{cell:<width$}") } else { write!(out, "  {cell:>width$}") };
            written.expect("a string takes everything");
        }
        out.push('\n');
    }
    let mut line =
        |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("a string takes everything");
    let answered = report.total(Counted::answered);
    line(format_args!(
        "all         {} operations/s, {}/s; {} found nothing",
        size::grouped(per_second(answered, report)),
        size::human(per_second(report.total(|counted| counted.bytes), report)),
        size::grouped(report.total(|counted| counted.absent))
    ));
    let wrong = &report.wrong;
    line(format_args!(
        "verified    {} lost, {} stale, {} torn, {} corrupt",
        wrong.lost, wrong.stale, wrong.torn, wrong.corrupt
    ));
    for example in &wrong.examples {
        line(format_args!("            {example}"));
    }
    for (kind, count) in &report.errors {
        let first = report.first_errors.get(kind).map_or("", String::as_str);
        line(format_args!("errors      {} {kind:?}: {first}", size::grouped(*count)));
    }
    let cpu = report.generator_cpu_nanoseconds * 100 / report.nanoseconds.max(1);
    let each = report.generator_cpu_nanoseconds / (answered + report.filled).max(1);
    write!(out, "generator   {cpu} % of a core, {} an operation", latency(each))
        .expect("a string takes everything");
    out
}

fn row(kind: Kind, counted: &Counted, report: &Report) -> [String; 10] {
    let quantile = |part| latency(counted.latencies.quantile(part));
    [
        kind.name().to_owned(),
        size::grouped(counted.answered()),
        size::grouped(per_second(counted.answered(), report)),
        size::human(per_second(counted.bytes, report)),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        latency(counted.latencies.longest()),
        size::grouped(counted.failed),
        size::grouped(counted.unknown),
    ]
}

/// `87 µs`, `1.25 ms`, `2.1 s`.
fn latency(nanoseconds: u64) -> String {
    match nanoseconds {
        0..10_000 => format!("{}.{} µs", nanoseconds / 1000, nanoseconds / 100 % 10),
        10_000..1_000_000 => format!("{} µs", nanoseconds / 1000),
        1_000_000..1_000_000_000 => {
            format!("{}.{:02} ms", nanoseconds / 1_000_000, nanoseconds / 10_000 % 100)
        }
        _ => time::duration(nanoseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_a_unit() {
        for (nanoseconds, text) in [
            (0, "0.0 µs"),
            (1_250, "1.2 µs"),
            (87_654, "87 µs"),
            (1_254_000, "1.25 ms"),
            (2_100_000_000, "2.1 s"),
        ] {
            assert_eq!(latency(nanoseconds), text);
        }
    }
}
