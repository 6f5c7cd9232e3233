//! One look at the machine. Which questions are asked of whom differs by system; [`machine`] chooses. Both sides
//! are portable code and are compiled, linted and tested everywhere.

mod hosted;
mod linux;

use std::io;

use tracing::debug;

use crate::docker;
use crate::facts::{Arch, Chassis, Cpu, Fact, Facts, Gpu, Os, Problem, Subject};
use crate::root::Root;

/// Looks at the machine below `root`. Takes a few milliseconds and at most two seconds, the time limit for Docker.
///
/// Never fails as a whole; see [`Facts::problems`]. Files are read on tokio's blocking pool, because a name database
/// may lie on a sleeping disk. It leaves no task running, unless it is dropped during that read.
pub async fn probe(root: &Root) -> Facts {
    let files = tokio::task::spawn_blocking({
        let root = root.clone();
        move || machine(&root)
    });
    let docker = docker::probe(root).await;
    let found = match files.await {
        Ok(found) => found,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down and takes no more blocking work; the read is short enough to do here.
            Err(_cancelled) => machine(root),
        },
    };
    for problem in &found.problems.0 {
        debug!(what = ?problem.what, place = problem.place, why = problem.why, "a look at the hardware failed");
    }
    let Machine {
        os,
        arch,
        cpu,
        memory_mib,
        hostname,
        gpus,
        chassis,
        problems,
    } = found;
    Facts {
        os,
        arch,
        cpu,
        memory_mib,
        hostname,
        docker,
        gpus,
        chassis,
        problems: problems.0,
    }
}

/// Asks this system in its own way.
fn machine(root: &Root) -> Machine {
    if cfg!(target_os = "linux") {
        linux::machine(root)
    } else {
        hosted::machine(root)
    }
}

/// The facts that are found without asking another program.
#[derive(Debug)]
struct Machine {
    os: Os,
    arch: Fact<Arch>,
    cpu: Cpu,
    memory_mib: Option<Fact<u64>>,
    hostname: Option<Fact<String>>,
    gpus: Vec<Gpu>,
    chassis: Fact<Chassis>,
    problems: Problems,
}

/// Collects the looks that failed.
#[derive(Debug, Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, what: Subject, place: impl Into<String>, why: &(impl ToString + ?Sized)) {
        self.0.push(Problem {
            what,
            place: place.into(),
            why: why.to_string(),
        });
    }

    /// The value, or a problem from the error.
    fn keep<T>(&mut self, what: Subject, place: &str, result: io::Result<T>) -> Option<T> {
        result.map_err(|error| self.add(what, place, &error)).ok()
    }

    /// The parsed value, or a problem that says that the text made no sense.
    fn parsed<T>(&mut self, what: Subject, place: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(what, place, "the text there makes no sense");
        }
        value
    }
}
