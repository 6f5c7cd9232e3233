//! A fixed fleet, one device for each kind of trouble, as tests and the example of the dashboard show it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use orfe_protocol::id::{DeviceId, Revision};
use orfe_protocol::observed::{
    Check, CheckCode, CheckOutcome, Docker, Facts, Gpu, Health, ObservedState, ProvisionerState,
    ProvisionerStatus, TunnelPhase, TunnelStatus,
};
use orfe_protocol::tag::Tags;

use super::{DeviceRow, Link};

/// The moment that the ages of [`rows`] are told from.
pub(crate) fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_780_000_000)
}

/// Seven devices in as many states.
pub(crate) fn rows() -> Vec<DeviceRow> {
    vec![
        gpu_box(),
        laptop(),
        starting(),
        broken(),
        offline(),
        DeviceRow {
            link: Link::NeverSeen,
            observed: None,
            last_seen_at: None,
            session_since: None,
            tunnel_handshake_at: None,
            ..row(6, "new-laptop", 40, &[])
        },
        DeviceRow {
            link: Link::Revoked,
            session_since: None,
            tunnel_handshake_at: None,
            ..row(7, "old-desktop", 5_000_000, &["owner=grace"])
        },
    ]
}

fn gpu_box() -> DeviceRow {
    let mut observed = observed();
    observed.facts.gpus = vec![gpu(), gpu()];
    observed.facts.chassis = "server".into();
    observed.facts.cpu_model = "AMD EPYC 9354P".into();
    observed.facts.cpu_cores = 32;
    observed.facts.memory_mib = 257_000;
    observed.tags = tags(&["arch=amd64", "gpu=nvidia-rtx4090", "os=linux", "type=server"]);
    observed.provisioners = vec![
        slot(0, ProvisionerState::Connected),
        slot(1, ProvisionerState::Connected),
    ];
    DeviceRow {
        observed: Some(Arc::new(observed)),
        tunnel_handshake_at: Some(ago(73)),
        ..row(1, "gpu-box-01", 2, &["location=lab-2", "owner=carol"])
    }
}

fn laptop() -> DeviceRow {
    let mut observed = observed();
    observed.facts.os = "darwin".into();
    observed.facts.os_version = "macOS 26.1".into();
    observed.facts.arch = "arm64".into();
    observed.facts.docker = Docker::Absent {
        reason: "no socket at /var/run/docker.sock".into(),
    };
    observed.tags = tags(&["arch=arm64", "gpu=none", "os=darwin", "type=laptop"]);
    observed.checks[4] = Check {
        code: CheckCode::Docker,
        outcome: CheckOutcome::Warning,
        required: false,
        message: "no Docker engine answers".into(),
        hint: Some("templates that run containers need one; start Docker Desktop".into()),
        since: ago(5_400),
    };
    DeviceRow {
        observed: Some(Arc::new(observed)),
        ..row(2, "alices-laptop", 9, &["owner=alice"])
    }
}

fn starting() -> DeviceRow {
    let mut observed = observed();
    observed.health = Health::Starting;
    observed.facts.chassis = "desktop".into();
    observed.tags = tags(&["arch=amd64", "gpu=none", "os=linux", "type=desktop"]);
    observed.checks[0].outcome = CheckOutcome::Pending;
    observed.checks[0].message = "no handshake with the gateway yet".into();
    observed.checks[1].outcome = CheckOutcome::Pending;
    observed.checks[1].message = "waits for the tunnel".into();
    observed.provisioners = vec![slot(0, ProvisionerState::Blocked)];
    if let Some(tunnel) = &mut observed.tunnel {
        tunnel.phase = TunnelPhase::Connecting;
    }
    DeviceRow {
        observed: Some(Arc::new(observed)),
        tunnel_handshake_at: None,
        ..row(3, "daves-workstation", 1, &["owner=dave"])
    }
}

fn broken() -> DeviceRow {
    let mut observed = observed();
    observed.health = Health::Unhealthy;
    observed.facts.chassis = "desktop".into();
    observed.tags = tags(&["arch=amd64", "gpu=none", "os=linux", "type=desktop"]);
    observed.checks[2] = Check {
        code: CheckCode::Terraform,
        outcome: CheckOutcome::Failed,
        required: true,
        message: "no terraform on the provisioners' PATH".into(),
        hint: Some("install terraform 1.9 or newer, or name it in agent.toml".into()),
        since: ago(700),
    };
    observed.checks[1].outcome = CheckOutcome::Pending;
    observed.checks[1].message = "0 of 1 provisioners connected".into();
    let mut slot = slot(0, ProvisionerState::Backoff);
    slot.restarts = 4;
    slot.reason = Some("ended after 15 s: terraform is missing".into());
    observed.provisioners = vec![slot];
    DeviceRow {
        observed: Some(Arc::new(observed)),
        ..row(4, "erins-desktop", 4, &["owner=erin"])
    }
}

fn offline() -> DeviceRow {
    DeviceRow {
        link: Link::Offline,
        observed: Some(Arc::new(observed())),
        session_since: None,
        tunnel_handshake_at: Some(ago(10_900)),
        ..row(5, "bobs-thinkpad", 10_800, &["owner=bob"])
    }
}

/// What a healthy machine reports.
pub(crate) fn observed() -> ObservedState {
    let check = |code, required, message: &str| Check {
        code,
        outcome: CheckOutcome::Ok,
        required,
        message: message.to_owned(),
        hint: None,
        since: ago(7_300),
    };
    ObservedState {
        desired: Revision {
            epoch: 1,
            revision: 3,
        },
        agent_version: "0.1.0".into(),
        started_at: ago(7_400),
        health: Health::Healthy,
        checks: vec![
            check(CheckCode::Tunnel, true, "handshake with the gateway 20 s ago"),
            check(CheckCode::Connected, true, "1 of 1 provisioners connected"),
            check(
                CheckCode::Terraform,
                true,
                "terraform 1.13.4 at /usr/bin/terraform",
            ),
            check(CheckCode::Disk, true, "81 GiB free in /var/lib/orfe"),
            check(CheckCode::Docker, false, "Docker 28.5.1 answers"),
        ],
        facts: facts(),
        tags: tags(&["arch=amd64", "gpu=none", "os=linux", "type=laptop"]),
        tunnel: Some(TunnelStatus {
            last_handshake_at: Some(ago(20)),
            endpoint: Some(([203, 0, 113, 7], 51_820).into()),
            addresses: vec![[100, 64, 0, 5].into()],
            ..TunnelStatus::new(TunnelPhase::Up, ago(7_300), "smoltcp")
        }),
        provisioners: vec![slot(0, ProvisionerState::Connected)],
    }
}

fn facts() -> Facts {
    Facts {
        hostname: "machine.example.com".into(),
        os: "linux".into(),
        os_version: "Debian 13".into(),
        arch: "amd64".into(),
        cpu_model: "Intel Core Ultra 7 155H".into(),
        cpu_cores: 16,
        memory_mib: 31_800,
        chassis: "laptop".into(),
        docker: Docker::Present {
            version: "28.5.1".into(),
        },
        gpus: vec![],
    }
}

fn gpu() -> Gpu {
    Gpu {
        vendor: "NVIDIA".into(),
        model: "GeForce RTX 4090".into(),
        tag: "nvidia-rtx4090".into(),
        evidence: "PCI 10de:2684".into(),
    }
}

fn slot(slot: u8, state: ProvisionerState) -> ProvisionerStatus {
    ProvisionerStatus {
        slot,
        name: format!("machine-{slot}"),
        state,
        since: ago(7_200),
        pid: Some(4_000 + u32::from(slot)),
        restarts: 0,
        reason: None,
        hint: None,
    }
}

/// A device that is online and was heard `seen` seconds ago.
fn row(number: u8, name: &str, seen: i64, granted: &[&str]) -> DeviceRow {
    let mut id = [0x5a; 16];
    id[15] = number;
    DeviceRow {
        id: DeviceId::from_bytes(id),
        name: name.parse().expect("a valid name"),
        link: Link::Online,
        observed: None,
        granted_tags: tags(granted),
        last_seen_at: Some(ago(seen)),
        session_since: Some(ago(7_350)),
        created_at: ago(6_000_000),
        tunnel_handshake_at: Some(ago(20)),
    }
}

fn tags(list: &[&str]) -> Tags {
    list.iter().map(|tag| tag.parse().expect("a valid tag")).collect()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}
