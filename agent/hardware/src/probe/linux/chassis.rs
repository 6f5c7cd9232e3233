//! Kind of machine. The order of the questions matters: a virtual machine may claim any chassis, and a laptop's
//! firmware may claim "other".

use crate::facts::{Chassis, Fact, Subject};
use crate::parse::machine;
use crate::root::Root;

use super::super::Problems;

const DMI: &str = "/sys/class/dmi/id";
const POWER_SUPPLIES: &str = "/sys/class/power_supply";
/// Says `control_d` in Xen's first domain, which sees the hypervisor flag and is the real machine.
const XEN_CAPABILITIES: &str = "/proc/xen/capabilities";

/// Asks the hypervisor flag, DMI's names, DMI's chassis type, and the batteries, in this order.
pub(super) fn probe(root: &Root, hypervisor_flag: bool, problems: &mut Problems) -> Fact<Chassis> {
    if hypervisor_flag
        && !root
            .read(XEN_CAPABILITIES)
            .is_ok_and(|text| text.contains("control_d"))
    {
        return Fact::new(Chassis::Vm, "/proc/cpuinfo: hypervisor flag");
    }
    let dmi = |name: &str| root.read(&format!("{DMI}/{name}")).unwrap_or_default();
    if machine::is_virtual(&dmi("sys_vendor"), &dmi("product_name")) {
        return Fact::new(Chassis::Vm, format!("{DMI}/{{sys_vendor,product_name}}"));
    }
    if let Some(chassis) = machine::chassis_type(&dmi("chassis_type")) {
        return Fact::new(chassis, format!("{DMI}/chassis_type"));
    }
    if let Some(battery) = battery(root) {
        return Fact::new(Chassis::Laptop, battery);
    }
    problems.add(
        Subject::Chassis,
        format!("{DMI}, {POWER_SUPPLIES}"),
        "neither the firmware nor a battery tells what kind of machine this is",
    );
    Fact::new(Chassis::Unknown, DMI)
}

/// The path of the machine's own battery.
fn battery(root: &Root) -> Option<String> {
    root.list(POWER_SUPPLIES)
        .ok()?
        .into_iter()
        .map(|name| format!("{POWER_SUPPLIES}/{name}"))
        .find(|supply| {
            let kind = root.read(&format!("{supply}/type")).unwrap_or_default();
            let scope = root.read(&format!("{supply}/scope")).ok();
            machine::is_machine_battery(&kind, scope.as_deref())
        })
}
