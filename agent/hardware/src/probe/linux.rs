//! Linux: procfs, sysfs and `os-release` below the root.

mod chassis;
mod gpu;

use crate::facts::{Arch, Cpu, Fact, Family, Os, Subject};
use crate::parse::{cpuinfo, one_line, system};
use crate::root::Root;

use super::{Machine, Problems};

const CPUINFO: &str = "/proc/cpuinfo";
const MEMINFO: &str = "/proc/meminfo";
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
const KERNEL_RELEASE: &str = "/proc/sys/kernel/osrelease";
/// What `uname -m` says; there since Linux 6.1.
const KERNEL_ARCH: &str = "/proc/sys/kernel/arch";
/// In the order of os-release(5): the administrator's copy, then the vendor's.
const OS_RELEASE: &[&str] = &["/etc/os-release", "/usr/lib/os-release"];
/// Board name on machines that boot with a device tree.
const DEVICE_TREE_MODEL: &str = "/proc/device-tree/model";

/// Reads every fact of the machine below `root`.
pub(super) fn machine(root: &Root) -> Machine {
    let mut problems = Problems::default();
    let cpuinfo = problems
        .keep(Subject::Cpu, CPUINFO, root.read(CPUINFO))
        .map(|text| cpuinfo::parse(&text));
    Machine {
        os: Os {
            family: Family::Linux,
            version: os_version(root, &mut problems),
            kernel: name(root, Subject::Kernel, KERNEL_RELEASE, &mut problems),
        },
        arch: arch(root),
        chassis: chassis::probe(
            root,
            cpuinfo.as_ref().is_some_and(|cpu| cpu.hypervisor),
            &mut problems,
        ),
        cpu: cpuinfo.map_or(
            Cpu {
                model: None,
                cores: None,
            },
            |info| cpu(root, info, &mut problems),
        ),
        memory_mib: memory(root, &mut problems),
        hostname: name(root, Subject::Hostname, HOSTNAME, &mut problems),
        gpus: gpu::probe(root, &mut problems),
        problems,
    }
}

fn os_version(root: &Root, problems: &mut Problems) -> Option<Fact<String>> {
    let found = OS_RELEASE.iter().find_map(|path| {
        let version = system::os_release(&root.read(path).ok()?)?;
        Some(Fact::new(version, *path))
    });
    if found.is_none() {
        problems.add(Subject::Os, OS_RELEASE.join(", "), "no file there names a system");
    }
    found
}

/// A file that holds one name.
fn name(root: &Root, what: Subject, path: &str, problems: &mut Problems) -> Option<Fact<String>> {
    let text = problems.keep(what, path, root.read(path))?;
    let name = problems.parsed(what, path, one_line(&text))?;
    Some(Fact::new(name, path))
}

/// The kernel's architecture; on kernels that do not tell, the one that this program was built for.
fn arch(root: &Root) -> Fact<Arch> {
    root.read(KERNEL_ARCH)
        .ok()
        .and_then(|text| one_line(&text))
        .map_or_else(
            || {
                Fact::new(
                    Arch::from_machine(std::env::consts::ARCH),
                    "architecture of this program",
                )
            },
            |machine| Fact::new(Arch::from_machine(&machine), KERNEL_ARCH),
        )
}

fn cpu(root: &Root, info: cpuinfo::CpuInfo, problems: &mut Problems) -> Cpu {
    let cores = (info.processors > 0).then(|| Fact::new(info.processors, CPUINFO));
    if cores.is_none() {
        problems.add(Subject::Cpu, CPUINFO, "it lists no processor");
    }
    let board = || {
        Some(Fact::new(
            one_line(&root.read(DEVICE_TREE_MODEL).ok()?)?,
            DEVICE_TREE_MODEL,
        ))
    };
    let model = info.model.map(|model| Fact::new(model, CPUINFO)).or_else(board);
    if model.is_none() {
        problems.add(Subject::Cpu, CPUINFO, "it names no model");
    }
    Cpu { model, cores }
}

fn memory(root: &Root, problems: &mut Problems) -> Option<Fact<u64>> {
    let text = problems.keep(Subject::Memory, MEMINFO, root.read(MEMINFO))?;
    let mib = problems.parsed(Subject::Memory, MEMINFO, system::memory_mib(&text))?;
    Some(Fact::new(mib, MEMINFO))
}
