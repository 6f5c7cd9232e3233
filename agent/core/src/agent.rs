//! The whole agent: inputs in, commands out.
//!
//! The shell calls [`Agent::handle`] for everything that happens and [`Agent::handle_timeout`] when
//! [`Agent::poll_timeout`] says so, and after each carries out all of [`Agent::poll_command`]. Every turn ends with the same
//! three steps, whatever came in: slots are told whether they are wanted and what they wait for, checks are judged
//! anew, and what the registry does not know yet is reported. So no input needs to remember what depends on it.

mod exchange;
mod observation;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orfe_protocol::desired::{DesiredState, SLOTS_MAX};
use orfe_protocol::id::Revision;
use orfe_protocol::message::{FromAgent, FromRegistry, GoodbyeReason};
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::{Facts, ObservedState, TunnelPhase, TunnelStatus};
use orfe_protocol::tag::Tags;
use rand::rngs::StdRng;

pub use self::exchange::{ChildPlan, Command, Input, Start};
use self::observation::empty_observation;
use crate::health::{self, CheckBook, Terraform};
use crate::session::{LinkState, Session, SessionCommand};
use crate::slot::{Slot, SlotCommand};
use crate::tags;
use crate::time::Now;

/// A child of an earlier life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orphan {
    /// It was told to end.
    Ending,
    /// It does not.
    Stays,
}

/// Why nothing starts in a slot while a child of an earlier life is there.
const ORPHAN: &str = "the provisioner of an earlier run finishes its job";

/// The agent; see the module's text.
#[derive(Debug)]
pub struct Agent {
    name: DeviceName,
    version: String,
    started_at: Timestamp,
    drain_timeout: Duration,
    tunnel_off: bool,
    session: Session,
    slots: BTreeMap<u8, Slot>,
    /// What each running child was started with, to see when it must be replaced.
    plans: BTreeMap<u8, ChildPlan>,
    /// Slots in which a child of an earlier life still finishes its job.
    orphans: BTreeMap<u8, Orphan>,
    desired: Option<DesiredState>,
    facts: Option<Facts>,
    tunnel: Option<TunnelStatus>,
    terraform: Terraform,
    disk_free_mib: Option<u64>,
    checks: CheckBook,
    observed: ObservedState,
    /// What the registry was last told in this session.
    reported: Option<ObservedState>,
    stopping: bool,
    stopped: bool,
    rng: StdRng,
    commands: VecDeque<Command>,
}

impl Agent {
    #[must_use]
    pub fn new(start: Start, now: Now) -> Self {
        let known = start
            .desired
            .as_ref()
            .map_or_else(Revision::default, |desired| desired.revision);
        let session = Session::new(
            start.enrolled,
            start.boot,
            start.agent_version.clone(),
            known,
            now.instant,
        );
        let observed = empty_observation(&start.agent_version, now.wall);
        let mut agent = Self {
            name: start.name,
            version: start.agent_version,
            started_at: now.wall,
            drain_timeout: start.drain_timeout,
            tunnel_off: start.tunnel_off,
            session,
            slots: BTreeMap::new(),
            plans: BTreeMap::new(),
            orphans: BTreeMap::new(),
            desired: None,
            facts: None,
            tunnel: None,
            terraform: Terraform::Unknown,
            // Until it was read there is no reason to complain.
            disk_free_mib: Some(u64::MAX),
            checks: CheckBook::default(),
            observed,
            reported: None,
            stopping: false,
            stopped: false,
            rng: start.rng,
            commands: VecDeque::new(),
        };
        if let Some(desired) = start.desired {
            agent.apply(desired);
        }
        agent.settle(now);
        agent
    }

    pub fn name(&self) -> &DeviceName {
        &self.name
    }

    pub fn observed(&self) -> &ObservedState {
        &self.observed
    }

    pub fn link(&self) -> LinkState {
        self.session.link()
    }

    pub fn desired(&self) -> Option<&DesiredState> {
        self.desired.as_ref()
    }

    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::LinkConnected => self.session.handle_connected(now.instant),
            Input::LinkMessage(message) => self.handle_message(*message, now),
            Input::LinkClosed(closed) => self.session.handle_closed(&closed, now.instant, &mut self.rng),
            Input::Tunnel(status) => self.tunnel = status.map(|status| *status),
            Input::Facts(facts) => self.facts = Some(*facts),
            Input::Terraform(terraform) => self.terraform = terraform,
            Input::DiskFree(free) => self.disk_free_mib = free,
            Input::OrphanLeft { slot } => self.note_orphan(slot, Some(Orphan::Ending)),
            Input::OrphanGone { slot } => self.note_orphan(slot, None),
            Input::OrphanStays { slot } => self.note_orphan(slot, Some(Orphan::Stays)),
            Input::PathChanged => self.handle_path_changed(now),
            Input::Stop => self.stop(now),
            Input::StopNow => {
                self.stop(now);
                self.slots.values_mut().for_each(Slot::kill);
                if !self.orphans.is_empty() {
                    self.commands.push_back(Command::KillOrphans);
                }
            }
            Input::ChildSpawned { slot, pid } => self.with_slot(slot, |slot, _| slot.handle_spawned(pid)),
            Input::ChildSpawnFailed { slot, reason } => {
                self.with_slot(slot, |slot, rng| slot.handle_spawn_failed(reason, rng, now));
            }
            Input::ChildSign { slot, sign } => self.with_slot(slot, |slot, _| slot.handle_sign(sign, now)),
            Input::ChildExited { slot, exit } => {
                self.with_slot(slot, |slot, rng| slot.handle_exited(&exit, rng, now));
            }
            Input::Moved { slot, at } => self.with_slot(slot, |slot, _| slot.handle_moved(at)),
            Input::Connections { slot, open } => {
                self.with_slot(slot, |slot, _| slot.handle_connections(open, now));
            }
        }
        self.settle(now);
    }

    pub fn handle_timeout(&mut self, now: Now) {
        self.session.handle_timeout(now.instant, &mut self.rng);
        for slot in self.slots.values_mut() {
            slot.handle_timeout(now);
        }
        self.settle(now);
    }

    /// When to call [`Agent::handle_timeout`], and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let slots = self.slots.values().filter_map(Slot::poll_timeout);
        slots.chain(self.session.poll_timeout()).min_by_key(|(at, _)| *at)
    }

    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn handle_message(&mut self, message: FromRegistry, now: Now) {
        if let FromRegistry::Welcome(welcome) = &message {
            self.name = welcome.name.clone();
            self.reported = None;
        }
        self.session.handle_message(message, now.instant, &mut self.rng);
    }

    fn handle_path_changed(&mut self, now: Now) {
        self.session.hurry(now.instant);
        for slot in self.slots.keys() {
            self.commands.push_back(Command::Cut { slot: *slot });
        }
    }

    fn note_orphan(&mut self, slot: u8, orphan: Option<Orphan>) {
        match orphan {
            Some(orphan) => self.orphans.insert(slot, orphan),
            None => self.orphans.remove(&slot),
        };
    }

    fn with_slot(&mut self, number: u8, act: impl FnOnce(&mut Slot, &mut StdRng)) {
        // An event of a child whose slot is gone already decides nothing any more.
        if let Some(slot) = self.slots.get_mut(&number) {
            act(slot, &mut self.rng);
        }
    }

    fn stop(&mut self, now: Now) {
        if !self.stopping {
            self.stopping = true;
            for slot in self.slots.values_mut() {
                slot.unwant(now);
            }
        }
    }

    fn apply(&mut self, mut desired: DesiredState) {
        if self.tunnel_off {
            // What is kept on disk has it still: another choice needs no word of the registry.
            desired.tunnel = None;
        }
        let tunnel_before = self.desired.as_ref().and_then(|desired| desired.tunnel.as_ref());
        if self.desired.is_none() || tunnel_before != desired.tunnel.as_ref() {
            if desired.tunnel.is_none() {
                self.tunnel = None;
            }
            self.commands
                .push_back(Command::ApplyTunnel(desired.tunnel.clone().map(Box::new)));
        }
        self.name = desired.device.clone();
        self.desired = Some(desired);
    }

    /// Brings everything in line with what is known now.
    fn settle(&mut self, now: Now) {
        while let Some(command) = self.session.poll_command() {
            self.carry_out(command);
        }
        if self.session.is_revoked() && self.desired.take().is_some() {
            self.tunnel = None;
            self.commands.push_back(Command::ForgetDesired);
            self.commands.push_back(Command::ApplyTunnel(None));
        }
        self.settle_slots(now);
        self.observe(now);
        if self.session.is_live() && self.reported.as_ref() != Some(&self.observed) {
            self.reported = Some(self.observed.clone());
            self.session
                .report(FromAgent::Observed(Box::new(self.observed.clone())));
        }
        self.settle_stop();
        while let Some(command) = self.session.poll_command() {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: SessionCommand) {
        match command {
            SessionCommand::Connect => self.commands.push_back(Command::Connect),
            SessionCommand::Send(message) => self.commands.push_back(Command::Send(message)),
            SessionCommand::Close => self.commands.push_back(Command::CloseLink),
            SessionCommand::Desired(desired) => {
                self.commands.push_back(Command::StoreDesired(desired.clone()));
                self.apply(*desired);
            }
        }
    }

    fn settle_stop(&mut self) {
        let waits_for_orphan = self.orphans.values().any(|orphan| *orphan == Orphan::Ending);
        let at_rest = !waits_for_orphan && self.slots.values().all(Slot::is_at_rest);
        if self.stopping && !self.stopped && at_rest {
            self.stopped = true;
            self.session.goodbye(GoodbyeReason::Shutdown);
            while let Some(command) = self.session.poll_command() {
                self.carry_out(command);
            }
            self.commands.push_back(Command::Stopped);
        }
    }

    fn provisioners_wanted(&self) -> u8 {
        let desired = self
            .desired
            .as_ref()
            .filter(|desired| desired.coder.is_some() && !self.stopping);
        desired.map_or(0, |desired| desired.slots.clamp(1, SLOTS_MAX))
    }

    fn settle_slots(&mut self, now: Now) {
        let wanted = self.provisioners_wanted();
        let blocked_by = self.blocked_by();
        for number in 0..wanted {
            let Some(plan) = self.plan(number) else { continue };
            let slot = self
                .slots
                .entry(number)
                .or_insert_with(|| Slot::new(number, plan.name.clone(), self.drain_timeout, now));
            let changed = self.plans.get(&number).is_some_and(|running| *running != plan);
            if changed {
                self.plans.remove(&number);
                slot.replace(now);
            }
            let orphan = self.orphans.contains_key(&number);
            let blocked_by = if orphan {
                Some(ORPHAN.to_owned())
            } else {
                blocked_by.clone()
            };
            slot.want(blocked_by, now);
        }
        for slot in self.slots.values_mut().filter(|slot| slot.number() >= wanted) {
            slot.unwant(now);
        }
        self.collect_slot_commands();
        self.slots
            .retain(|number, slot| *number < wanted || !slot.is_at_rest());
    }

    fn collect_slot_commands(&mut self) {
        let mut collected = Vec::new();
        for (number, slot) in &mut self.slots {
            while let Some(command) = slot.poll_command() {
                collected.push((*number, command));
            }
        }
        for (slot, command) in collected {
            match command {
                SlotCommand::Spawn => {
                    if let Some(plan) = self.plan(slot) {
                        self.plans.insert(slot, plan.clone());
                        self.commands.push_back(Command::Spawn(Box::new(plan)));
                    }
                }
                SlotCommand::Drain => self.commands.push_back(Command::Drain { slot }),
                SlotCommand::Kill => self.commands.push_back(Command::Kill { slot }),
                SlotCommand::Cut => self.commands.push_back(Command::Cut { slot }),
            }
        }
    }

    fn plan(&self, slot: u8) -> Option<ChildPlan> {
        let desired = self.desired.as_ref()?;
        let coder = desired.coder.clone()?;
        let tags = match coder.credential {
            orfe_protocol::desired::Credential::Psk(_) => self.tags().for_coder(),
            orfe_protocol::desired::Credential::Key(_) => Tags::default(),
        };
        Some(ChildPlan {
            slot,
            name: desired.device.provisioner(slot),
            coder,
            tags,
        })
    }

    fn tags(&self) -> Tags {
        let granted = self
            .desired
            .as_ref()
            .map(|desired| desired.tags.clone())
            .unwrap_or_default();
        self.facts
            .as_ref()
            .map_or_else(|| granted.clone(), |facts| tags::effective(facts, &granted))
    }

    /// What must be there before any child may start; none when all is.
    fn blocked_by(&self) -> Option<String> {
        if self.facts.is_none() {
            return Some("detecting hardware".to_owned());
        }
        if !matches!(self.terraform, Terraform::Found { .. }) {
            return Some(self.terraform.to_string());
        }
        if self
            .disk_free_mib
            .is_some_and(|free| free < health::DISK_FAILED_MIB)
        {
            return Some("the disk is full".to_owned());
        }
        let tunnel_wanted = self
            .desired
            .as_ref()
            .is_some_and(|desired| desired.tunnel.is_some());
        let tunnel_up = self
            .tunnel
            .as_ref()
            .is_some_and(|tunnel| matches!(tunnel.phase, TunnelPhase::Up | TunnelPhase::Resting));
        (tunnel_wanted && !tunnel_up).then(|| "waiting for the tunnel".to_owned())
    }
}

#[cfg(test)]
mod tests;
