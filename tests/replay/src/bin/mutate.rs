//! `mutate TARGET SECONDS [SEED]`: one target on changed inputs of its corpus. What it panics on is written to
//! `tests/fuzz/artifacts/TARGET`, where cargo-fuzz puts what it finds.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use orfe_replay::TARGETS;
use orfe_replay::mutate::{Mutator, search};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (answer, code) = match run(&arguments) {
        Ok(Ok(summary)) => (summary, ExitCode::SUCCESS),
        Ok(Err(found)) => (found, ExitCode::FAILURE),
        Err(error) => (format!("error: {error}"), ExitCode::from(2)),
    };
    // Nobody is left to tell it to when stdout is gone.
    let _ = writeln!(io::stdout(), "{answer}");
    code
}

/// What is to be said: that nothing was found, or what was.
fn run(arguments: &[String]) -> io::Result<Result<String, String>> {
    let usage = || io::Error::other("usage: mutate TARGET SECONDS [SEED]");
    let (name, seconds, seed) = match arguments {
        [name, seconds] => (name, seconds, None),
        [name, seconds, seed] => (name, seconds, Some(seed)),
        _ => return Err(usage()),
    };
    let (_, target) = TARGETS
        .iter()
        .find(|(known, _)| known == name)
        .ok_or_else(usage)?;
    let seconds = seconds.parse().map_err(|_| usage())?;
    let seed = match seed {
        Some(seed) => seed.parse().map_err(|_| usage())?,
        None => other_than_last_time(),
    };
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut mutator = Mutator::new(corpus(&fuzz.join("corpus").join(name))?, seed);
    Ok(match search(*target, &mut mutator, || Instant::now() < until) {
        Ok(tried) => Ok(format!("{name}: {tried} inputs, seed {seed}")),
        Err(found) => {
            let folder = fuzz.join("artifacts").join(name);
            std::fs::create_dir_all(&folder)?;
            let file = folder.join(format!("mutated-{seed}-{}", found.after));
            std::fs::write(&file, &found.input)?;
            Err(format!(
                "{name}: FOUND after {} inputs, seed {seed}: {}",
                found.after,
                file.display()
            ))
        }
    })
}

/// In the order of their names, so that a seed means the same everywhere.
fn corpus(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    files.sort();
    files.iter().map(std::fs::read).collect()
}

fn other_than_last_time() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
