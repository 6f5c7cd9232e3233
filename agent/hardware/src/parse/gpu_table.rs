//! Names of common GPUs by PCI id, so that a card has a name, and the same tag, on machines without its driver
//! and without a `pci.ids` database.
//!
//! Where one AMD id stands for several cards, the name here is that of the series or of the chip: a tag must not
//! claim the larger card. To add a card, put a row at its place; the rows are sorted and a test holds them to it.

use crate::facts::{GpuKind, Vendor};

/// One known device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    device: u16,
    /// The vendor's name for the card, without the vendor.
    pub(crate) model: &'static str,
    /// Known better than by its place.
    pub(crate) kind: GpuKind,
}

const fn card(device: u16, model: &'static str) -> Known {
    Known {
        device,
        model,
        kind: GpuKind::Discrete,
    }
}

const fn part(device: u16, model: &'static str) -> Known {
    Known {
        device,
        model,
        kind: GpuKind::Integrated,
    }
}

/// The row for a device, if there is one.
pub(crate) fn find(vendor: Vendor, device: u16) -> Option<&'static Known> {
    let rows = match vendor {
        Vendor::Nvidia => NVIDIA,
        Vendor::Amd => AMD,
        Vendor::Intel => INTEL,
        Vendor::Other(_) => &[],
    };
    rows.binary_search_by_key(&device, |row| row.device)
        .ok()
        .map(|index| &rows[index])
}

const NVIDIA: &[Known] = &[
    card(0x15f8, "Tesla P100 PCIe 16GB"),
    card(0x15f9, "Tesla P100 SXM2 16GB"),
    card(0x1b06, "GeForce GTX 1080 Ti"),
    card(0x1b38, "Tesla P40"),
    card(0x1b80, "GeForce GTX 1080"),
    card(0x1b81, "GeForce GTX 1070"),
    card(0x1b82, "GeForce GTX 1070 Ti"),
    card(0x1c03, "GeForce GTX 1060 6GB"),
    card(0x1c82, "GeForce GTX 1050 Ti"),
    card(0x1db1, "Tesla V100 SXM2 16GB"),
    card(0x1db4, "Tesla V100 PCIe 16GB"),
    card(0x1db5, "Tesla V100 SXM2 32GB"),
    card(0x1db6, "Tesla V100 PCIe 32GB"),
    card(0x1e04, "GeForce RTX 2080 Ti"),
    card(0x1e07, "GeForce RTX 2080 Ti"),
    card(0x1e81, "GeForce RTX 2080 SUPER"),
    card(0x1e82, "GeForce RTX 2080"),
    card(0x1e84, "GeForce RTX 2070 SUPER"),
    card(0x1e87, "GeForce RTX 2080"),
    card(0x1eb8, "Tesla T4"),
    card(0x1f02, "GeForce RTX 2070"),
    card(0x1f06, "GeForce RTX 2060 SUPER"),
    card(0x1f07, "GeForce RTX 2070"),
    card(0x1f08, "GeForce RTX 2060"),
    card(0x1f82, "GeForce GTX 1650"),
    card(0x20b0, "A100 SXM4 40GB"),
    card(0x20b2, "A100 SXM4 80GB"),
    card(0x20b5, "A100 PCIe 80GB"),
    card(0x20b7, "A30"),
    card(0x20f1, "A100 PCIe 40GB"),
    card(0x2182, "GeForce GTX 1660 Ti"),
    card(0x2184, "GeForce GTX 1660"),
    card(0x2187, "GeForce GTX 1650 SUPER"),
    card(0x21c4, "GeForce GTX 1660 SUPER"),
    card(0x2203, "GeForce RTX 3090 Ti"),
    card(0x2204, "GeForce RTX 3090"),
    card(0x2206, "GeForce RTX 3080"),
    card(0x2208, "GeForce RTX 3080 Ti"),
    card(0x2216, "GeForce RTX 3080"),
    card(0x2230, "RTX A6000"),
    card(0x2231, "RTX A5000"),
    card(0x2232, "RTX A4500"),
    card(0x2235, "A40"),
    card(0x2236, "A10"),
    card(0x2237, "A10G"),
    card(0x2321, "H100 NVL"),
    card(0x2330, "H100 SXM5 80GB"),
    card(0x2331, "H100 PCIe"),
    card(0x2335, "H200 SXM 141GB"),
    card(0x233b, "H200 NVL"),
    card(0x2342, "GH200 120GB"),
    card(0x2482, "GeForce RTX 3070 Ti"),
    card(0x2484, "GeForce RTX 3070"),
    card(0x2486, "GeForce RTX 3060 Ti"),
    card(0x2488, "GeForce RTX 3070"),
    card(0x2489, "GeForce RTX 3060 Ti"),
    card(0x24b0, "RTX A4000"),
    card(0x24dc, "GeForce RTX 3080 Laptop GPU"),
    card(0x24dd, "GeForce RTX 3070 Laptop GPU"),
    card(0x2503, "GeForce RTX 3060"),
    card(0x2504, "GeForce RTX 3060"),
    card(0x2507, "GeForce RTX 3050"),
    card(0x2520, "GeForce RTX 3060 Laptop GPU"),
    card(0x2560, "GeForce RTX 3060 Laptop GPU"),
    card(0x25a0, "GeForce RTX 3050 Ti Laptop GPU"),
    card(0x25a2, "GeForce RTX 3050 Laptop GPU"),
    card(0x2684, "GeForce RTX 4090"),
    card(0x2685, "GeForce RTX 4090 D"),
    card(0x26b1, "RTX 6000 Ada Generation"),
    card(0x26b2, "RTX 5000 Ada Generation"),
    card(0x26b5, "L40"),
    card(0x26b9, "L40S"),
    card(0x2702, "GeForce RTX 4080 SUPER"),
    card(0x2704, "GeForce RTX 4080"),
    card(0x2705, "GeForce RTX 4070 Ti SUPER"),
    card(0x2717, "GeForce RTX 4090 Laptop GPU"),
    card(0x2757, "GeForce RTX 4090 Laptop GPU"),
    card(0x2782, "GeForce RTX 4070 Ti"),
    card(0x2783, "GeForce RTX 4070 SUPER"),
    card(0x2786, "GeForce RTX 4070"),
    card(0x27a0, "GeForce RTX 4080 Laptop GPU"),
    card(0x27b8, "L4"),
    card(0x27e0, "GeForce RTX 4080 Laptop GPU"),
    card(0x2803, "GeForce RTX 4060 Ti"),
    card(0x2805, "GeForce RTX 4060 Ti 16GB"),
    card(0x2820, "GeForce RTX 4070 Laptop GPU"),
    card(0x2860, "GeForce RTX 4070 Laptop GPU"),
    card(0x2882, "GeForce RTX 4060"),
    card(0x28a0, "GeForce RTX 4060 Laptop GPU"),
    card(0x28a1, "GeForce RTX 4050 Laptop GPU"),
    card(0x28e0, "GeForce RTX 4060 Laptop GPU"),
    card(0x28e1, "GeForce RTX 4050 Laptop GPU"),
    card(0x2901, "B200"),
    card(0x2b85, "GeForce RTX 5090"),
    card(0x2bb1, "RTX PRO 6000 Blackwell Workstation Edition"),
    card(0x2c02, "GeForce RTX 5080"),
    card(0x2c05, "GeForce RTX 5070 Ti"),
    card(0x2d04, "GeForce RTX 5060 Ti"),
    card(0x2f04, "GeForce RTX 5070"),
];

const AMD: &[Known] = &[
    part(0x13c0, "Radeon Granite Ridge Graphics"),
    part(0x1506, "Radeon Mendocino Graphics"),
    part(0x150e, "Radeon Strix Graphics"),
    part(0x1586, "Radeon Strix Halo Graphics"),
    part(0x15bf, "Radeon Phoenix Graphics"),
    part(0x15d8, "Radeon Picasso Graphics"),
    part(0x15dd, "Radeon Raven Graphics"),
    part(0x15e7, "Radeon Barcelo Graphics"),
    part(0x1636, "Radeon Renoir Graphics"),
    part(0x1638, "Radeon Cezanne Graphics"),
    part(0x163f, "Radeon Van Gogh Graphics"),
    part(0x164c, "Radeon Lucienne Graphics"),
    part(0x164e, "Radeon Raphael Graphics"),
    part(0x1681, "Radeon Rembrandt Graphics"),
    part(0x1900, "Radeon Hawk Point Graphics"),
    card(0x66af, "Radeon VII"),
    card(0x731f, "Radeon Navi 10"),
    card(0x738c, "Instinct MI100"),
    card(0x73bf, "Radeon Navi 21"),
    card(0x73df, "Radeon Navi 22"),
    card(0x73ff, "Radeon Navi 23"),
    card(0x7408, "Instinct MI250X"),
    card(0x740f, "Instinct MI210"),
    card(0x744c, "Radeon RX 7900 Series"),
    card(0x747e, "Radeon Navi 32"),
    card(0x7480, "Radeon Navi 33"),
    card(0x74a0, "Instinct MI300A"),
    card(0x74a1, "Instinct MI300X"),
    card(0x7550, "Radeon RX 9070 Series"),
];

const INTEL: &[Known] = &[
    part(0x1916, "HD Graphics 520"),
    part(0x3e92, "UHD Graphics 630"),
    part(0x3e9b, "UHD Graphics 630"),
    part(0x3ea0, "UHD Graphics 620"),
    part(0x4680, "UHD Graphics 770"),
    part(0x46a6, "Iris Xe Graphics"),
    card(0x56a0, "Arc A770"),
    card(0x56a1, "Arc A750"),
    card(0x56a5, "Arc A380"),
    part(0x5916, "HD Graphics 620"),
    part(0x5917, "UHD Graphics 620"),
    part(0x591b, "HD Graphics 630"),
    part(0x7d55, "Arc Graphics"),
    part(0x9a49, "Iris Xe Graphics"),
    part(0x9bc5, "UHD Graphics 630"),
    part(0xa780, "UHD Graphics 770"),
    part(0xa7a0, "Iris Xe Graphics"),
    card(0xe20b, "Arc B580"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_unique() {
        for rows in [NVIDIA, AMD, INTEL] {
            for pair in rows.windows(2) {
                assert!(
                    pair[0].device < pair[1].device,
                    "{:04x} is out of place",
                    pair[1].device
                );
            }
        }
    }

    #[test]
    fn a_device_is_found_under_its_own_vendor_only() {
        assert_eq!(find(Vendor::Nvidia, 0x2684).unwrap().model, "GeForce RTX 4090");
        assert_eq!(find(Vendor::Intel, 0x9a49).unwrap().kind, GpuKind::Integrated);
        assert!(find(Vendor::Amd, 0x2684).is_none());
        assert!(find(Vendor::Other(0x10de), 0x2684).is_none());
        assert!(find(Vendor::Nvidia, 0xffff).is_none());
    }
}
