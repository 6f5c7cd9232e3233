//! GPUs on the PCI bus, from sysfs.
//!
//! A device counts by class and vendor. Its name comes from NVIDIA's driver, else from the built-in table, else from
//! the machine's `pci.ids`; its tag value from the table before all others, so that it does not depend on the driver.
//! Any device that cannot be read makes the look a failed one: it might have been a GPU.

use std::io;

use crate::facts::{Fact, Gpu, Subject, Vendor};
use crate::parse::{field, gpu_table, gpu_tag, one_line, pci};
use crate::root::Root;

use super::super::Problems;

const PCI_DEVICES: &str = "/sys/bus/pci/devices";
const NVIDIA_GPUS: &str = "/proc/driver/nvidia/gpus";
const PCI_DATABASES: &[&str] = &["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];
/// In the Windows Subsystem for Linux the host's GPU stands behind this and not on the PCI bus.
const WSL_GPU: &str = "/dev/dxg";

/// All GPUs, the most useful first.
pub(super) fn probe(root: &Root, problems: &mut Problems) -> Vec<Gpu> {
    let addresses = problems
        .keep(Subject::Gpu, PCI_DEVICES, root.list(PCI_DEVICES))
        .unwrap_or_default();
    let mut gpus: Vec<Gpu> = addresses
        .iter()
        .filter_map(|address| device(root, address, problems))
        .collect();
    if gpus.is_empty() && root.exists(WSL_GPU) {
        problems.add(
            Subject::Gpu,
            WSL_GPU,
            "GPUs that Windows lends to Linux are not recognised yet",
        );
    }
    gpus.sort_by(|a, b| (a.kind, &a.pci_address).cmp(&(b.kind, &b.pci_address)));
    gpus
}

/// The GPU at a PCI address; `None` for every other device, and for one that cannot be read.
fn device(root: &Root, address: &str, problems: &mut Problems) -> Option<Gpu> {
    let folder = format!("{PCI_DEVICES}/{address}");
    let class = number(root, &format!("{folder}/class"), pci::class, problems)?;
    let vendor_id = number(root, &format!("{folder}/vendor"), pci::id, problems)?;
    if !pci::is_display(class, vendor_id) || pci::is_basic_adapter(vendor_id) {
        return None;
    }
    // A virtual function is a slice of a GPU that is listed itself.
    if root.exists(&format!("{folder}/physfn")) {
        return None;
    }
    let device_id = number(root, &format!("{folder}/device"), pci::id, problems)?;
    let vendor = Vendor::from_pci(vendor_id);
    let known = gpu_table::find(vendor, device_id);
    let pci_id = format!("{vendor_id:04x}:{device_id:04x}");
    let model = model(root, address, vendor_id, device_id);
    let tag_name = known
        .map(|row| row.model)
        .or(model.as_ref().map(|model| model.value.as_str()));
    Some(Gpu {
        vendor,
        kind: known.map_or_else(|| pci::kind(vendor, address), |row| row.kind),
        tag_value: gpu_tag::value(vendor, device_id, tag_name.unwrap_or_default()),
        model: model.unwrap_or_else(|| Fact::new(pci_id.clone(), format!("{folder}/{{vendor,device}}"))),
        pci_id,
        pci_address: address.to_owned(),
        driver: driver(root, &folder, problems),
        evidence: folder,
    })
}

/// A number that must be there, or a problem.
fn number<T>(root: &Root, path: &str, parse: fn(&str) -> Option<T>, problems: &mut Problems) -> Option<T> {
    match root.read(path) {
        Ok(text) => problems.parsed(Subject::Gpu, path, parse(&text)),
        // A device that was unplugged between listing and reading is not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_gone(root, path) => None,
        Err(error) => {
            problems.add(Subject::Gpu, path, &error);
            None
        }
    }
}

/// Whether the folder that `path` lies in is gone.
fn is_gone(root: &Root, path: &str) -> bool {
    path.rsplit_once('/')
        .is_some_and(|(folder, _)| !root.exists(folder))
}

/// The card's name, if anything knows it.
fn model(root: &Root, address: &str, vendor_id: u16, device_id: u16) -> Option<Fact<String>> {
    let vendor = Vendor::from_pci(vendor_id);
    if vendor == Vendor::Nvidia
        && let Some(fact) = nvidia_model(root, address)
    {
        return Some(fact);
    }
    if let Some(row) = gpu_table::find(vendor, device_id) {
        return Some(Fact::new(row.model.to_owned(), "built-in table of PCI ids"));
    }
    PCI_DATABASES.iter().find_map(|path| {
        let name = pci::name_in_database(&root.read(path).ok()?, vendor_id, device_id)?;
        Some(Fact::new(name, *path))
    })
}

/// What NVIDIA's driver calls the card.
fn nvidia_model(root: &Root, address: &str) -> Option<Fact<String>> {
    let path = format!("{NVIDIA_GPUS}/{address}/information");
    let text = root.read(&path).ok()?;
    let model = one_line(field(&text, "Model")?).filter(|model| model != "Unknown")?;
    Some(Fact::new(model, path))
}

fn driver(root: &Root, folder: &str, problems: &mut Problems) -> Option<Fact<String>> {
    let path = format!("{folder}/driver");
    let name = match root.link_name(&path) {
        Ok(name) => one_line(&name?)?,
        Err(error) => {
            problems.add(Subject::Gpu, path, &error);
            return None;
        }
    };
    Some(Fact::new(name, path))
}
