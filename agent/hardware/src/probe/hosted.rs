//! macOS, Windows and the rest, asked through `sysinfo`. GPUs and the kind of machine are not looked for yet,
//! and both are reported as problems: nothing is claimed about them.

use sysinfo::System;

use crate::facts::{Arch, Chassis, Cpu, Fact, Family, Os, Subject};
use crate::parse::one_line;
use crate::root::Root;

use super::{Machine, Problems};

const NOT_BUILT: &str = "this version cannot look for it on this system";

/// Asks the system itself; the root stands for nothing here.
pub(super) fn machine(_root: &Root) -> Machine {
    let mut problems = Problems::default();
    let os = Os {
        family: Family::of_build(),
        version: name(
            Subject::Os,
            "sysinfo::System::long_os_version",
            System::long_os_version(),
            &mut problems,
        ),
        kernel: name(
            Subject::Kernel,
            "sysinfo::System::kernel_version",
            System::kernel_version(),
            &mut problems,
        ),
    };
    let hostname = name(
        Subject::Hostname,
        "sysinfo::System::host_name",
        System::host_name(),
        &mut problems,
    );
    let (cpu, memory_mib) = cpu_and_memory(&mut problems);
    problems.add(Subject::Gpu, Family::of_build().as_str(), NOT_BUILT);
    problems.add(Subject::Chassis, Family::of_build().as_str(), NOT_BUILT);
    Machine {
        os,
        arch: Fact::new(
            Arch::from_machine(&System::cpu_arch()),
            "sysinfo::System::cpu_arch",
        ),
        cpu,
        memory_mib,
        hostname,
        gpus: Vec::new(),
        chassis: Fact::new(Chassis::Unknown, "not looked for"),
        problems,
    }
}

fn cpu_and_memory(problems: &mut Problems) -> (Cpu, Option<Fact<u64>>) {
    let mut system = match System::new() {
        Ok(system) => system,
        Err(error) => {
            problems.add(Subject::Cpu, "sysinfo::System::new", &error);
            problems.add(Subject::Memory, "sysinfo::System::new", &error);
            return (
                Cpu {
                    model: None,
                    cores: None,
                },
                None,
            );
        }
    };
    system.refresh_memory();
    system.refresh_cpu_all();
    let brand = system
        .cpus()
        .first()
        .map(|cpu| cpu.brand().to_owned())
        .unwrap_or_default();
    let model = name(Subject::Cpu, "sysinfo::Cpu::brand", Ok(brand), problems);
    let count = u32::try_from(system.cpus().len()).ok().filter(|count| *count > 0);
    let cores = problems.parsed(Subject::Cpu, "sysinfo::System::cpus", count);
    let bytes = Some(system.total_memory()).filter(|bytes| *bytes > 0);
    let memory = problems.parsed(Subject::Memory, "sysinfo::System::total_memory", bytes);
    (
        Cpu {
            model,
            cores: cores.map(|cores| Fact::new(cores, "sysinfo::System::cpus")),
        },
        memory.map(|bytes| Fact::new(bytes / (1024 * 1024), "sysinfo::System::total_memory")),
    )
}

/// One name that a call returned.
fn name(
    what: Subject,
    call: &str,
    answer: Result<String, sysinfo::Error>,
    problems: &mut Problems,
) -> Option<Fact<String>> {
    let text = answer.map_err(|error| problems.add(what, call, &error)).ok()?;
    let name = problems.parsed(what, call, one_line(&text))?;
    Some(Fact::new(name, call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_does_not_look_for() {
        let machine = machine(&Root::system());
        assert!(machine.memory_mib.is_some_and(|memory| memory.value > 0));
        assert!(machine.cpu.cores.is_some_and(|cores| cores.value > 0));
        assert!(machine.hostname.is_some());
        for subject in [Subject::Gpu, Subject::Chassis] {
            assert!(
                machine.problems.0.iter().any(|problem| problem.what == subject),
                "{subject} is not owned up to"
            );
        }
    }
}
