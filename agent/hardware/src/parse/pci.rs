//! PCI numbers as sysfs prints them, which devices count as GPUs, and the `pci.ids` database.

use crate::facts::{GpuKind, Vendor};

use super::one_line;

/// Vendors whose display adapters are virtual, or the plain ones of a server's management controller. They show a
/// picture and compute nothing.
const BASIC_ADAPTER_VENDORS: &[u16] = &[
    0x1013, // Cirrus Logic, as QEMU once emulated it
    0x102b, // Matrox G200 in management controllers
    0x1234, // Bochs and QEMU's standard VGA
    0x126f, // Silicon Motion, on server boards
    0x1414, // Hyper-V's synthetic adapter
    0x15ad, // VMware SVGA
    0x1a03, // ASPEED management controllers
    0x1ab8, // Parallels
    0x1af4, // virtio-gpu
    0x1b36, // QXL
    0x19e5, // Huawei management controllers
    0x80ee, // VirtualBox
];

/// A 16-bit number such as `0x10de`.
pub(crate) fn id(text: &str) -> Option<u16> {
    u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// A 24-bit class such as `0x030000`: base class, subclass, programming interface.
pub(crate) fn class(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16)
        .ok()
        .filter(|class| *class <= 0xff_ffff)
}

/// Whether a device of this class and vendor may be a GPU at all: base class 03 (display controller), or AMD's
/// accelerators, which are in base class 12 (processing accelerator) and have no display.
pub(crate) const fn is_display(class: u32, vendor: u16) -> bool {
    match class >> 16 {
        0x03 => true,
        0x12 => vendor == 0x1002,
        _ => false,
    }
}

/// Whether the vendor's display adapters are no GPUs.
pub(crate) fn is_basic_adapter(vendor: u16) -> bool {
    BASIC_ADAPTER_VENDORS.contains(&vendor)
}

/// Discrete or integrated, as far as vendor and place tell. Intel's integrated GPUs have always stood at slot 02.0
/// of the first bus; NVIDIA makes no integrated ones for PCI; AMD's stand anywhere.
pub(crate) fn kind(vendor: Vendor, address: &str) -> GpuKind {
    match vendor {
        Vendor::Intel if address.ends_with(":00:02.0") => GpuKind::Integrated,
        Vendor::Nvidia | Vendor::Intel => GpuKind::Discrete,
        Vendor::Amd | Vendor::Other(_) => GpuKind::Unknown,
    }
}

/// Finds a device's name in the text of `pci.ids`: vendors at the line's start, their devices after one tab,
/// subsystems after two.
pub(crate) fn name_in_database(text: &str, vendor: u16, device: u16) -> Option<String> {
    let vendor_start = format!("{vendor:04x}  ");
    let device_start = format!("\t{device:04x}  ");
    text.lines()
        .skip_while(|line| !line.starts_with(&vendor_start))
        .skip(1)
        .take_while(|line| line.starts_with(['\t', '#']) || line.is_empty())
        .find_map(|line| line.strip_prefix(&device_start))
        .and_then(one_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: &str = "# comment\n\n1002  AMD\n\t2684  Not this one\n10de  NVIDIA Corporation\n\
        \t2684  AD102 [GeForce RTX 4090]\n\t\t10de 16f4  Founders Edition\n# note\n\t26b9  AD102GL [L40S]\n\
        8086  Intel\n\t9a49  TigerLake-LP GT2 [Iris Xe Graphics]\nC 03  Display controller\n";

    #[test]
    fn numbers() {
        assert_eq!(id("0x10de\n"), Some(0x10de));
        assert_eq!(class("0x030200\n"), Some(0x03_0200));
        for text in ["", "10de", "0x", "0x12345", "0xzz", "-1", "0x-1"] {
            assert_eq!(id(text), None, "{text:?}");
        }
        assert_eq!(class("0x1030000"), None);
    }

    #[test]
    fn display_classes() {
        assert!(
            is_display(0x03_0000, 0x10de) && is_display(0x03_0200, 0x10de) && is_display(0x03_8000, 0x1002)
        );
        assert!(
            is_display(0x12_0000, 0x1002),
            "AMD's accelerators have a class of their own"
        );
        assert!(
            !is_display(0x12_0000, 0x8086)
                && !is_display(0x04_0300, 0x10de)
                && !is_display(0x02_0000, 0x8086)
        );
    }

    #[test]
    fn kinds() {
        assert_eq!(kind(Vendor::Intel, "0000:00:02.0"), GpuKind::Integrated);
        assert_eq!(kind(Vendor::Intel, "0000:03:00.0"), GpuKind::Discrete);
        assert_eq!(kind(Vendor::Nvidia, "0000:00:02.0"), GpuKind::Discrete);
        assert_eq!(kind(Vendor::Amd, "0000:c1:00.0"), GpuKind::Unknown);
    }

    #[test]
    fn the_database_is_searched_within_the_vendor() {
        assert_eq!(
            name_in_database(DATABASE, 0x10de, 0x2684).as_deref(),
            Some("AD102 [GeForce RTX 4090]")
        );
        assert_eq!(
            name_in_database(DATABASE, 0x10de, 0x26b9).as_deref(),
            Some("AD102GL [L40S]")
        );
        assert_eq!(
            name_in_database(DATABASE, 0x10de, 0x9a49),
            None,
            "that is another vendor's"
        );
        assert_eq!(name_in_database(DATABASE, 0x1234, 0x1111), None);
        assert_eq!(name_in_database("", 0x10de, 0x2684), None);
        assert_eq!(name_in_database("10de", 0x10de, 0x2684), None);
    }
}
