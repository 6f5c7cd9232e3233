//! The types of what was found.
//!
//! Every value carries the place that it was read from ([`Fact::evidence`]): a path on the machine or
//! the name of a call. They serialise to JSON for `--json` and for people; the wire has types of its own.

use std::fmt;

use serde::{Serialize, Serializer};

/// A value and the place it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact<T> {
    /// What was found.
    pub value: T,
    /// Where: an absolute path, or the name of a call.
    pub evidence: String,
}

impl<T> Fact<T> {
    pub(crate) fn new(value: T, evidence: impl Into<String>) -> Self {
        Self {
            value,
            evidence: evidence.into(),
        }
    }
}

/// All that [`probe`](crate::probe()) found, and what it failed to find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Operating system.
    pub os: Os,
    /// Processor architecture that the kernel runs on.
    pub arch: Fact<Arch>,
    /// Processor.
    pub cpu: Cpu,
    /// Memory that the kernel manages, in MiB; a little less than what is built in.
    pub memory_mib: Option<Fact<u64>>,
    /// The machine's name for itself, not checked against DNS.
    pub hostname: Option<Fact<String>>,
    /// Whether a Docker engine answers.
    pub docker: Docker,
    /// GPUs, the most useful first: discrete, then of unknown kind, then integrated; by PCI address within
    /// each. Empty means none only if [`Facts::gpu_none`] says so.
    pub gpus: Vec<Gpu>,
    /// What kind of machine this is.
    pub chassis: Fact<Chassis>,
    /// Looks that failed.
    pub problems: Vec<Problem>,
}

impl Facts {
    /// True when GPUs were looked for, the look succeeded, and there was none.
    ///
    /// With an empty `gpus` and a false answer here nothing is known about GPUs.
    pub fn gpu_none(&self) -> bool {
        self.gpus.is_empty() && !self.problems.iter().any(|problem| problem.what == Subject::Gpu)
    }
}

/// Operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Os {
    /// Which system; known from the build.
    pub family: Family,
    /// Name and version for people: `Debian GNU/Linux 12 (bookworm)`.
    pub version: Option<Fact<String>>,
    /// Kernel release: `6.1.0-18-amd64`.
    pub kernel: Option<Fact<String>>,
}

/// Operating system family, in the spelling of Go and Coder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Linux.
    Linux,
    /// macOS.
    Darwin,
    /// Windows.
    Windows,
    /// Any other system that this was built for.
    Other,
}

impl Family {
    /// The family that this program was built for.
    pub const fn of_build() -> Self {
        if cfg!(target_os = "linux") {
            Self::Linux
        } else if cfg!(target_os = "macos") {
            Self::Darwin
        } else if cfg!(windows) {
            Self::Windows
        } else {
            Self::Other
        }
    }

    /// `linux`, `darwin`, `windows` or `other`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Darwin => "darwin",
            Self::Windows => "windows",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Processor architecture, displayed in Coder's spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86, `amd64`.
    Amd64,
    /// 64-bit ARM, `arm64`.
    Arm64,
    /// 32-bit ARM with hardware floats, `armv7`.
    Armv7,
    /// Any other, as the kernel spells it.
    Other(String),
}

impl Arch {
    /// From the spelling of `uname -m` or of Rust's target triples.
    pub fn from_machine(name: &str) -> Self {
        match name {
            "x86_64" | "amd64" => Self::Amd64,
            "aarch64" | "arm64" => Self::Arm64,
            "arm" | "armv7l" | "armv8l" => Self::Armv7,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armv7 => "armv7",
            Self::Other(name) => name,
        })
    }
}

impl Serialize for Arch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// The vendor's name for it.
    pub model: Option<Fact<String>>,
    /// Logical processors that are online (hyper-threads count), at least 1.
    pub cores: Option<Fact<u32>>,
}

/// Whether a Docker engine answers on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Docker {
    /// An engine answered.
    Present {
        /// The engine's version: `27.3.1`.
        version: String,
        /// The endpoint that answered, which is also the evidence: `unix:///var/run/docker.sock`.
        endpoint: String,
    },
    /// No engine answered.
    Absent {
        /// Why not.
        reason: DockerAbsence,
        /// The endpoint that was tried, which is also the evidence.
        endpoint: String,
        /// What the attempt said, for people.
        detail: String,
    },
}

impl Docker {
    /// True when an engine answered.
    pub const fn is_present(&self) -> bool {
        matches!(self, Self::Present { .. })
    }
}

/// Why no Docker engine answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DockerAbsence {
    /// Neither a socket nor a program named `docker` or `dockerd` was found.
    NotInstalled,
    /// The program or its socket is there, and nobody listens.
    NotRunning,
    /// The socket is there and this user may not open it.
    PermissionDenied,
    /// Somebody listens and did not answer in time.
    NoAnswer,
    /// The endpoint is of a kind that is not supported, such as `ssh://`.
    UnsupportedEndpoint,
    /// Something answered that is not a Docker engine, or answered with an error.
    BadAnswer,
}

impl fmt::Display for DockerAbsence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInstalled => "Docker is not installed",
            Self::NotRunning => "Docker is not running",
            Self::PermissionDenied => "permission denied on Docker's socket",
            Self::NoAnswer => "Docker did not answer in time",
            Self::UnsupportedEndpoint => "this kind of Docker endpoint is not supported",
            Self::BadAnswer => "what answered does not behave like Docker",
        })
    }
}

/// One GPU. Virtual display adapters and the plain ones of server boards are not GPUs here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Who made the chip.
    pub vendor: Vendor,
    /// Integrated into the processor, or a device of its own.
    pub kind: GpuKind,
    /// The vendor's name for the card; the PCI id where no name is known.
    pub model: Fact<String>,
    /// PCI vendor and device: `10de:2684`.
    pub pci_id: String,
    /// PCI address on this machine: `0000:01:00.0`.
    pub pci_address: String,
    /// Kernel driver bound to it; absent when none is.
    pub driver: Option<Fact<String>>,
    /// Value for a tag: `nvidia-rtx4090`. Lower case, of `a-z`, `0-9`, `.` and `-`, at most 48 characters.
    /// Cards that the built-in table knows have the same value with and without their driver.
    pub tag_value: String,
    /// The sysfs folder that describes the device.
    pub evidence: String,
}

/// Maker of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// PCI vendor `10de`.
    Nvidia,
    /// PCI vendor `1002`.
    Amd,
    /// PCI vendor `8086`.
    Intel,
    /// Any other PCI vendor, displayed as `pci-1ed5`.
    Other(u16),
}

impl Vendor {
    /// From the PCI vendor id.
    pub const fn from_pci(id: u16) -> Self {
        match id {
            0x10de => Self::Nvidia,
            0x1002 => Self::Amd,
            0x8086 => Self::Intel,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvidia => f.write_str("nvidia"),
            Self::Amd => f.write_str("amd"),
            Self::Intel => f.write_str("intel"),
            Self::Other(id) => write!(f, "pci-{id:04x}"),
        }
    }
}

impl Serialize for Vendor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a GPU is part of the processor. The order is the order of usefulness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuKind {
    /// A device with memory of its own.
    Discrete,
    /// Not known.
    Unknown,
    /// Part of the processor.
    Integrated,
}

/// Kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Chassis {
    /// Runs on a battery: laptops, convertibles, tablets.
    Laptop,
    /// Desktop, tower, all-in-one, mini PC.
    Desktop,
    /// Server, rack or blade.
    Server,
    /// Virtual machine, of any kind.
    Vm,
    /// Nothing said so.
    Unknown,
}

impl fmt::Display for Chassis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Laptop => "laptop",
            Self::Desktop => "desktop",
            Self::Server => "server",
            Self::Vm => "vm",
            Self::Unknown => "unknown",
        })
    }
}

/// A look that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What was looked for.
    pub what: Subject,
    /// Where: a path or the name of a call.
    #[serde(rename = "where")]
    pub place: String,
    /// Why it was not found.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "could not read {} from {}: {}",
            self.what, self.place, self.why
        )
    }
}

/// What a look was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Name and version of the system.
    Os,
    /// Kernel release.
    Kernel,
    /// Processor architecture.
    Arch,
    /// Processor.
    Cpu,
    /// Size of the memory.
    Memory,
    /// The machine's name.
    Hostname,
    /// GPUs.
    Gpu,
    /// Kind of machine.
    Chassis,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Os => "the system's version",
            Self::Kernel => "the kernel's release",
            Self::Arch => "the architecture",
            Self::Cpu => "the processor",
            Self::Memory => "the memory's size",
            Self::Hostname => "the hostname",
            Self::Gpu => "the GPUs",
            Self::Chassis => "the kind of machine",
        })
    }
}
