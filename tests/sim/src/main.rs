//! temporary
#![expect(clippy::print_stdout, reason = "cli")]
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let level = args[1].as_str();
    let a: u64 = args[2].parse().unwrap_or(0);
    let b: u64 = args.get(3).and_then(|s| s.parse().ok()).unwrap_or(a + 1);
    let mut tally = sim::report::Tally::default();
    for seed in a..b {
        let result = if level == "store" {
            sim::store_run::run(seed, args.len() > 4)
        } else {
            sim::world::run(seed, args.len() > 4)
        };
        match result {
            Ok((t, hash)) => {
                tally.merge(&t);
                if b == a + 1 {
                    println!("{hash:016x}");
                }
            }
            Err(failed) => println!("{failed}\n"),
        }
    }
    println!("{}", tally.table());
    println!(
        "{} ops {} events {} virtual s",
        tally.operations,
        tally.events,
        tally.virtual_nanos / 1_000_000_000
    );
}
