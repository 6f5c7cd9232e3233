//! A made-up Linux machine in a temporary folder: complete and plain, changed by what a test adds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use orfe_hardware::Root;

/// A folder that looks like `/` of a desktop without any GPU.
pub(crate) struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let cpuinfo = "processor\t: 0\nmodel name\t: Testing Processor 9\nflags\t\t: fpu vme\n\n\
                       processor\t: 1\nmodel name\t: Testing Processor 9\n";
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
        .file("/proc/cpuinfo", cpuinfo)
        .file(
            "/proc/meminfo",
            "MemTotal:       32614876 kB\nMemFree:         1000 kB\n",
        )
        .file("/proc/sys/kernel/hostname", "testbed\n")
        .file("/proc/sys/kernel/osrelease", "6.8.0-45-generic\n")
        .file("/proc/sys/kernel/arch", "x86_64\n")
        .file("/etc/os-release", "PRETTY_NAME=\"Testix 3\"\n")
        .chassis("ASUS", "System Product Name", "3")
        .pci("0000:00:00.0", &Pci::of_class(0x06_0000, 0x8086, 0x3e30))
        .pci(
            "0000:00:1f.6",
            &Pci::of_class(0x02_0000, 0x8086, 0x15bc).driver("e1000e"),
        )
    }

    pub(crate) fn root(&self) -> Root {
        Root::at(self.folder.path())
    }

    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        self.bytes(path, text.as_bytes())
    }

    pub(crate) fn bytes(self, path: &str, bytes: &[u8]) -> Self {
        let path = self.place(path);
        fs::write(path, bytes).unwrap();
        self
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.place(path)).unwrap();
        self
    }

    pub(crate) fn without(self, path: &str) -> Self {
        fs::remove_file(self.place(path)).unwrap();
        self
    }

    pub(crate) fn chassis(self, sys_vendor: &str, product_name: &str, chassis_type: &str) -> Self {
        self.file("/sys/class/dmi/id/sys_vendor", &format!("{sys_vendor}\n"))
            .file("/sys/class/dmi/id/product_name", &format!("{product_name}\n"))
            .file("/sys/class/dmi/id/chassis_type", &format!("{chassis_type}\n"))
    }

    pub(crate) fn pci(self, address: &str, device: &Pci) -> Self {
        let folder = format!("/sys/bus/pci/devices/{address}");
        let mut machine = self
            .file(&format!("{folder}/class"), &format!("0x{:06x}\n", device.class))
            .file(&format!("{folder}/vendor"), &format!("0x{:04x}\n", device.vendor))
            .file(&format!("{folder}/device"), &format!("0x{:04x}\n", device.device));
        if let Some(driver) = device.driver {
            machine = machine.link(
                &format!("{folder}/driver"),
                &format!("../../../../bus/pci/drivers/{driver}"),
            );
        }
        if let Some(parent) = device.slice_of {
            machine = machine.link(&format!("{folder}/physfn"), &format!("../{parent}"));
        }
        machine
    }

    /// The real path, with its folder made.
    fn place(&self, path: &str) -> PathBuf {
        let path = self.folder.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}

/// One function of a PCI device.
pub(crate) struct Pci {
    class: u32,
    vendor: u16,
    device: u16,
    driver: Option<&'static str>,
    slice_of: Option<&'static str>,
}

impl Pci {
    /// A VGA controller.
    pub(crate) fn display(vendor: u16, device: u16) -> Self {
        Self::of_class(0x03_0000, vendor, device)
    }

    pub(crate) fn of_class(class: u32, vendor: u16, device: u16) -> Self {
        Self {
            class,
            vendor,
            device,
            driver: None,
            slice_of: None,
        }
    }

    pub(crate) fn driver(self, name: &'static str) -> Self {
        Self {
            driver: Some(name),
            ..self
        }
    }

    pub(crate) fn slice_of(self, parent: &'static str) -> Self {
        Self {
            slice_of: Some(parent),
            ..self
        }
    }
}
