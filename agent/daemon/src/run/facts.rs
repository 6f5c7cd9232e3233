//! Facts as they were detected become facts as the registry reads them.

use orfe_hardware::{Docker as Detected, Facts as DetectedFacts};
use orfe_protocol::observed::{Docker, Facts, Gpu};

/// The facts of the wire; what was not found is empty or 0.
pub(super) fn to_wire(found: &DetectedFacts) -> Facts {
    Facts {
        hostname: found
            .hostname
            .as_ref()
            .map(|fact| fact.value.clone())
            .unwrap_or_default(),
        os: found.os.family.to_string(),
        os_version: found
            .os
            .version
            .as_ref()
            .map(|fact| fact.value.clone())
            .unwrap_or_default(),
        arch: found.arch.value.to_string(),
        cpu_model: found
            .cpu
            .model
            .as_ref()
            .map(|fact| fact.value.clone())
            .unwrap_or_default(),
        cpu_cores: found.cpu.cores.as_ref().map_or(0, |fact| fact.value),
        memory_mib: found.memory_mib.as_ref().map_or(0, |fact| fact.value),
        chassis: found.chassis.value.to_string(),
        docker: docker(&found.docker),
        gpus: found.gpus.iter().map(gpu).collect(),
    }
}

fn docker(found: &Detected) -> Docker {
    match found {
        Detected::Present { version, .. } => Docker::Present {
            version: version.clone(),
        },
        Detected::Absent { reason, .. } => Docker::Absent {
            reason: reason.to_string(),
        },
    }
}

fn gpu(found: &orfe_hardware::Gpu) -> Gpu {
    Gpu {
        vendor: found.vendor.to_string(),
        model: found.model.value.clone(),
        tag: found.tag_value.clone(),
        evidence: found.evidence.clone(),
    }
}
