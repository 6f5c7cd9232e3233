//! Kind of machine from DMI (SMBIOS) texts and from power supplies.

use crate::facts::Chassis;

/// The kind that an SMBIOS chassis type names (System Enclosure, type 3, byte 05h), as sysfs prints it in decimal.
/// `None` for "other", "unknown" and types that say nothing about the kind, such as an expansion chassis.
pub(crate) fn chassis_type(text: &str) -> Option<Chassis> {
    match text.trim().parse::<u8>().ok()? {
        // Portable, laptop, notebook, hand held, sub notebook, tablet, convertible, detachable.
        8..=11 | 14 | 30..=32 => Some(Chassis::Laptop),
        // Desktop, low profile, pizza box, mini tower, tower, all in one, space-saving, lunch box,
        // sealed-case PC, mini PC, stick PC.
        3..=7 | 13 | 15 | 16 | 24 | 35 | 36 => Some(Chassis::Desktop),
        // Main server chassis, rack mount, multi-system, blade, blade enclosure.
        17 | 23 | 25 | 28 | 29 => Some(Chassis::Server),
        _ => None,
    }
}

/// Makers whose every machine is virtual, as their firmware writes itself into `sys_vendor`, in lower case.
const VIRTUAL_VENDORS: &[&str] = &[
    "qemu",
    "vmware, inc.",
    "innotek gmbh",
    "xen",
    "parallels international gmbh.",
    "parallels software international inc.",
    "bochs",
    "openstack foundation",
    "digitalocean",
    "alibaba cloud",
    "bhyve",
    "cloud hypervisor",
];

/// Parts of `product_name` that only virtual machines have, in lower case.
const VIRTUAL_PRODUCTS: &[&str] = &[
    "virtual machine",
    "virtualbox",
    "vmware",
    "kvm",
    "google compute engine",
    "apple virtualization",
    "vserver",
];

/// Whether DMI's vendor and product names are those of a virtual machine.
pub(crate) fn is_virtual(sys_vendor: &str, product_name: &str) -> bool {
    let (vendor, product) = (
        sys_vendor.trim().to_lowercase(),
        product_name.trim().to_lowercase(),
    );
    match vendor.as_str() {
        // The same vendor name stands on hired machines without a hypervisor: `m5.metal`.
        "amazon ec2" => !product.contains(".metal"),
        // Chromebooks are Google's too.
        "google" => product.contains("google compute engine"),
        _ => {
            VIRTUAL_VENDORS.contains(&vendor.as_str())
                || VIRTUAL_PRODUCTS.iter().any(|part| product.contains(part))
        }
    }
}

/// Whether a power supply is the battery of the machine, from its `type` and `scope` in sysfs: a mouse or a
/// headset has the scope `Device`.
pub(crate) fn is_machine_battery(kind: &str, scope: Option<&str>) -> bool {
    kind.trim() == "Battery" && scope.is_none_or(|scope| scope.trim() != "Device")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chassis_types_by_kind() {
        for (text, kind) in [
            ("10\n", Some(Chassis::Laptop)),
            ("31", Some(Chassis::Laptop)),
            ("3", Some(Chassis::Desktop)),
            ("35", Some(Chassis::Desktop)),
            ("23\n", Some(Chassis::Server)),
            ("1", None),
            ("2", None),
            ("0", None),
            ("255", None),
            ("999", None),
            ("laptop", None),
            ("", None),
        ] {
            assert_eq!(chassis_type(text), kind, "{text:?}");
        }
    }

    #[test]
    fn virtual_machines_by_name() {
        for (vendor, product) in [
            ("QEMU\n", "Standard PC (Q35 + ICH9, 2009)\n"),
            ("Microsoft Corporation", "Virtual Machine"),
            ("VMware, Inc.", "VMware20,1"),
            ("Amazon EC2", "m5.large"),
            ("Google", "Google Compute Engine"),
            ("Hetzner", "vServer"),
        ] {
            assert!(is_virtual(vendor, product), "{vendor} {product}");
        }
        for (vendor, product) in [
            ("Microsoft Corporation", "Surface Laptop 5"),
            ("Amazon EC2", "m5.metal"),
            ("Google", "Eve"),
            ("LENOVO", "21HMCTO1WW"),
            ("", ""),
        ] {
            assert!(!is_virtual(vendor, product), "{vendor} {product}");
        }
    }

    #[test]
    fn a_mouse_is_no_battery_of_the_machine() {
        assert!(is_machine_battery("Battery\n", None));
        assert!(is_machine_battery("Battery", Some("System\n")));
        assert!(!is_machine_battery("Battery\n", Some("Device\n")));
        assert!(!is_machine_battery("UPS\n", None));
        assert!(!is_machine_battery("Mains\n", None));
    }
}
