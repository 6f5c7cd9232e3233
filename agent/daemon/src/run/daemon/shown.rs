//! What the daemon shows of itself: `orfe status`.

use orfe_core::session::LinkState;
use orfe_protocol::observed::ProvisionerStatus;

use super::Daemon;
use crate::config::{Config, TunnelMode};
use crate::control::status::{self, Device, Registry, Status};

impl Daemon {
    pub(super) fn publish(&self) {
        let status = self.status_now();
        let before = self
            .status
            .borrow()
            .as_ref()
            .map_or_else(Vec::new, |status| status.provisioners.clone());
        log_changes(&before, &status.provisioners);
        self.status.send_if_modified(|published| {
            let changed = published.as_ref() != Some(&status);
            if changed {
                *published = Some(status);
            }
            changed
        });
    }

    fn status_now(&self) -> Status {
        let observed = self.agent.observed();
        let (state, reason) = match self.agent.link() {
            LinkState::Off => ("off", None),
            LinkState::Connecting { after } => ("connecting", after),
            LinkState::Connected => ("connected", None),
            LinkState::Waiting { reason, .. } => ("waiting", Some(reason)),
        };
        Status {
            version: status::VERSION,
            device: Device {
                id: self.identity.device,
                name: self.agent.name().clone(),
                agent_version: observed.agent_version.clone(),
            },
            health: observed.health,
            registry: Registry {
                url: self.identity.registry_url.clone(),
                state: state.to_owned(),
                reason,
            },
            checks: observed.checks.clone(),
            tunnel: observed.tunnel.clone(),
            tunnel_off: tunnel_off(&self.config),
            provisioners: observed.provisioners.clone(),
            containers: self.containers.borrow().clone(),
            state: self.state.path().to_owned(),
            tags: observed.tags.clone(),
            facts: observed.facts.clone(),
            desired: observed.desired,
            started_at: observed.started_at,
            pid: std::process::id(),
        }
    }
}

/// Logs each provisioner whose state, or the reason of it, is another than before.
fn log_changes(before: &[ProvisionerStatus], now: &[ProvisionerStatus]) {
    for slot in now {
        let known = before.iter().find(|known| known.slot == slot.slot);
        if known.is_some_and(|known| (known.state, &known.reason) == (slot.state, &slot.reason)) {
            continue;
        }
        let (name, state) = (&slot.name, slot.state.as_str());
        if let Some(reason) = &slot.reason {
            tracing::warn!(name, state, reason, "provisioner");
        } else {
            tracing::info!(name, state, "provisioner");
        }
    }
}

/// Why there is no tunnel whatever the registry wants.
fn tunnel_off(config: &Config) -> Option<String> {
    let mode = &config.tunnel_mode;
    (mode.value == TunnelMode::Off).then(|| {
        format!(
            "chosen on this machine ({}); names of the policy are reached as any other",
            mode.origin
        )
    })
}
