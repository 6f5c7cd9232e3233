//! What the agent says of itself: its checks, judged anew, and everything that the registry is told.

use jiff::Timestamp;
use orfe_protocol::id::Revision;
use orfe_protocol::observed::{Docker, Facts, Health, ObservedState, ProvisionerState, ProvisionerStatus};
use orfe_protocol::tag::Tags;

use super::{Agent, ORPHAN};
use crate::health::{self, Observations};
use crate::slot::Slot;
use crate::time::Now;

impl Agent {
    pub(super) fn observe(&mut self, now: Now) {
        let desired = self.desired.as_ref();
        let mut provisioners: Vec<_> = self.slots.values().map(Slot::status).collect();
        provisioners.extend(self.orphans_alone());
        let link = self.session.link();
        let wanted = self.provisioners_wanted();
        let facts = self.facts.clone().unwrap_or_else(unknown_facts);
        let observations = Observations {
            tunnel_wanted: desired.is_some_and(|desired| desired.tunnel.is_some()),
            tunnel: self.tunnel.as_ref(),
            provisioners_wanted: wanted,
            provisioners: &provisioners,
            terraform: &self.terraform,
            disk_free_mib: self.disk_free_mib,
            docker_required: desired.is_some_and(|desired| desired.docker_required),
            docker: &facts.docker,
            link: &link,
            revoked: self.session.is_revoked(),
        };
        let checks = self.checks.judge(&observations, now.wall);
        self.observed = ObservedState {
            desired: desired.map_or_else(Revision::default, |desired| desired.revision),
            agent_version: self.version.clone(),
            started_at: self.started_at,
            health: health::verdict(&checks, wanted),
            checks,
            tags: self.tags(),
            facts,
            tunnel: self.tunnel.clone(),
            provisioners,
        };
    }

    /// Children of an earlier life whose slot nobody wants any more; a daemon that stops waits for them.
    fn orphans_alone(&self) -> impl Iterator<Item = ProvisionerStatus> {
        let alone = self.orphans.keys().filter(|slot| !self.slots.contains_key(slot));
        alone.map(|&slot| ProvisionerStatus {
            slot,
            name: self.name.provisioner(slot),
            state: ProvisionerState::Draining,
            since: self.started_at,
            pid: None,
            restarts: 0,
            reason: Some(ORPHAN.to_owned()),
            hint: None,
        })
    }
}

pub(super) fn empty_observation(agent_version: &str, started_at: Timestamp) -> ObservedState {
    ObservedState {
        desired: Revision::default(),
        agent_version: agent_version.to_owned(),
        started_at,
        health: Health::Idle,
        checks: Vec::new(),
        facts: unknown_facts(),
        tags: Tags::default(),
        tunnel: None,
        provisioners: Vec::new(),
    }
}

pub(super) fn unknown_facts() -> Facts {
    Facts {
        hostname: String::new(),
        os: String::new(),
        os_version: String::new(),
        arch: String::new(),
        cpu_model: String::new(),
        cpu_cores: 0,
        memory_mib: 0,
        chassis: String::new(),
        docker: Docker::Unknown,
        gpus: Vec::new(),
    }
}
