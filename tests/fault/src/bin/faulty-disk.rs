//! `faulty-disk BACKING MOUNTPOINT`: serves a disk that fails on command (see `fault::control`) until its input ends.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use fault::Disk;
use fault::control::execute;
use fault::filesystem::{Shared, config};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(backing), Some(mounted), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: faulty-disk BACKING MOUNTPOINT");
        return ExitCode::from(2);
    };
    match serve(&backing, &mounted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where the other end listens it is told, else the exit code tells.
            let _ = answer(&format!("error {}: {error}", mounted.display()));
            ExitCode::FAILURE
        }
    }
}

fn serve(backing: &std::path::Path, mounted: &std::path::Path) -> io::Result<()> {
    let disk = Shared::new(Disk::new(backing)?);
    let session = fuser::spawn_mount(disk.clone(), mounted, &config())?;
    answer("ok")?;
    for line in io::stdin().lock().lines() {
        let said = execute(&mut disk.lock(), &line?);
        answer(&said)?;
    }
    // A node that still uses the disk doesn't keep it: with this process what it has open is gone, and fails from now on.
    rustix::mount::unmount(mounted, rustix::mount::UnmountFlags::DETACH)?;
    drop(session);
    Ok(())
}

fn answer(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
