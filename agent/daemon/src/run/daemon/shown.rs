//! What the daemon shows of itself: `orfe status`.

use orfe_core::session::LinkState;

use super::Daemon;
use crate::config::{Config, TunnelMode};
use crate::control::status::{self, Device, Registry, Status};

impl Daemon {
    pub(super) fn publish(&self) {
        let status = self.status_now();
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
            LinkState::Connecting => ("connecting", None),
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
