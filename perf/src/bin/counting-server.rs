//! A server like `catena server`, with an allocator that counts.
//!
//! `counting-server server init --config FILE` formats, `counting-server server --config FILE` serves. Each line `allocations` on standard input is answered with
//! their number since the start. The end of standard input ends it in good order.

#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

use runtime::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["server", "init", "--config", file] => format(Path::new(file)),
        ["server", "--config", file] => serve(Path::new(file)),
        _ => Err("usage: counting-server server [init] --config FILE".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counting-server: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn format(file: &Path) -> Outcome {
    node::init(&node::Config::load(file)?)?;
    Ok(())
}

fn serve(file: &Path) -> Outcome {
    let config = node::Config::load(file)?;
    node::logging::init(&config.log)?;
    let node = node::start(config)?;
    let mut out = std::io::stdout();
    writeln!(out, "ready at {}, admin at http://{}", node.endpoint(), node.admin_address())?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        if line? == "allocations" {
            writeln!(out, "{}", CountingAllocator::allocations())?;
            out.flush()?;
        }
    }
    node.stop()?;
    Ok(())
}
