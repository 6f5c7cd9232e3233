//! The status as people read it, within 80 columns.
//!
//! ```text
//! alices-laptop   healthy
//!
//! registry     connected      https://orfe.example.com:7443
//! tunnel       up for 3 min   handshake 12 s ago
//!              TCP stack namespace with bbr: this system allows it
//! provisioner  connected      alices-laptop-0, for 3 min
//!
//! ✓ tunnel     the tunnel to the gateway is up
//! ! docker     no Docker engine: not running
//!              → templates that make containers need a running Docker engine
//!
//! tags         arch=amd64 gpu=none os=linux
//! machine      Debian GNU/Linux 12, amd64, 2 cores, 23 GiB, GPU none
//! ```

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;

use jiff::Timestamp;
use orfe_protocol::observed::{
    Carrier, Check, CheckOutcome, Facts, Health, ProvisionerState, ProvisionerStatus, TunnelPhase,
    TunnelStart, TunnelStatus,
};

use crate::control::status::{Containers, ContainersState, HostGateway, Status};

/// Width that lines are wrapped to.
const WIDTH: usize = 80;

/// Column where the second part of a row begins.
const INDENT: usize = 13;

/// Whether to use colour: on a terminal that knows it, unless `NO_COLOR` says otherwise (no-color.org).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Colour,
}

impl Style {
    pub(super) fn of_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if wanted && !dumb && std::io::stdout().is_terminal() {
            Self::Colour
        } else {
            Self::Plain
        }
    }

    fn paint(self, ansi: u8, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{ansi}m{text}\x1b[0m"),
        }
    }
}

const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const RED: u8 = 31;
const DIM: u8 = 2;

/// The whole page.
pub(super) fn render(status: &Status, now: Timestamp, style: Style) -> String {
    let mut page = String::new();
    push_title(&mut page, status, style);
    push_work(&mut page, status, now);
    page.push('\n');
    for check in &status.checks {
        push_check(&mut page, check, style);
    }
    page.push('\n');
    push_machine(&mut page, status, now);
    page
}

/// Who it is, and how it is.
fn push_title(page: &mut String, status: &Status, style: Style) {
    let colour = match status.health {
        Health::Healthy => GREEN,
        Health::Unhealthy => RED,
        Health::Starting | Health::Idle | Health::Unknown => YELLOW,
    };
    let health = style.paint(colour, status.health.as_str());
    let _ = writeln!(page, "{}   {health}\n", status.device.name);
}

/// What the daemon keeps going.
fn push_work(page: &mut String, status: &Status, now: Timestamp) {
    let reason = status
        .registry
        .reason
        .as_deref()
        .map(|reason| format!("\n{reason}"))
        .unwrap_or_default();
    row(
        page,
        "registry",
        &format!("{}, {}{reason}", status.registry.state, status.registry.url),
    );
    row(
        page,
        "tunnel",
        &status
            .tunnel
            .as_ref()
            .map(|tunnel| describe_tunnel(tunnel, now))
            .or_else(|| status.tunnel_off.as_ref().map(|reason| format!("off: {reason}")))
            .unwrap_or_else(|| "off".to_owned()),
    );
    for slot in &status.provisioners {
        push_provisioner(page, slot, &status.state, now);
    }
    if let Some(containers) = &status.containers {
        if containers.state != ContainersState::NoDocker {
            row(page, "containers", &describe_containers(containers));
        }
        if let Some(way) = &containers.host_gateway {
            row(page, "host gateway", &describe_host_gateway(way));
        }
    }
}

/// What it is.
fn push_machine(page: &mut String, status: &Status, now: Timestamp) {
    let tags: Vec<String> = status
        .tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let tags = if tags.is_empty() {
        "none".to_owned()
    } else {
        tags.join(" ")
    };
    row(page, "tags", &tags);
    row(page, "machine", &describe_machine(&status.facts));
    let version = &status.device.agent_version;
    let time = age(status.started_at, now);
    row(page, "agent", &format!("{version}, running for {time}"));
}

fn push_provisioner(page: &mut String, slot: &ProvisionerStatus, state: &Path, now: Timestamp) {
    let restarts = match slot.restarts {
        0 => String::new(),
        1 => ", restarted once".to_owned(),
        times => format!(", restarted {times} times"),
    };
    let (name, shown, time) = (&slot.name, slot.state.as_str(), age(slot.since, now));
    let mut text = format!("{name}, {shown} for {time}{restarts}");
    if slot.state != ProvisionerState::Connected
        && let Some(reason) = &slot.reason
    {
        let log = state
            .join("slots")
            .join(slot.slot.to_string())
            .join("provisioner.log");
        let _ = write!(text, "\n{reason}");
        // It has said something once it ran.
        if slot.pid.is_some() || slot.restarts > 0 {
            let _ = write!(text, "\nits output: {}", log.display());
        }
    }
    row(page, "provisioner", &text);
}

fn describe_containers(containers: &Containers) -> String {
    let reason = containers
        .reason
        .as_deref()
        .map(|reason| format!("\n{reason}"))
        .unwrap_or_default();
    let reaches = match containers.state {
        ContainersState::Ready => "reaches",
        ContainersState::Starting | ContainersState::NoDocker | ContainersState::Failed => "is to reach",
    };
    format!(
        "{}: network `{}` {reaches} {}{reason}",
        containers.state.as_str(),
        containers.network,
        containers.names.join(", ")
    )
}

fn describe_host_gateway(way: &HostGateway) -> String {
    let listening = match (way.address, &way.bridge) {
        (Some(address), Some(bridge)) => {
            let ports: Vec<String> = way.ports.iter().map(u16::to_string).collect();
            format!(
                "listening at {address}, port {}, for bridge `{bridge}`",
                ports.join(", ")
            )
        }
        _ => "not listening".to_owned(),
    };
    match &way.reason {
        Some(reason) => format!("{listening}\n{reason}"),
        None => listening,
    }
}

fn describe_tunnel(tunnel: &TunnelStatus, now: Timestamp) -> String {
    let handshake = tunnel
        .last_handshake_at
        .map_or("no handshake yet".to_owned(), |at| {
            format!("handshake {} ago", age(at, now))
        });
    let is_bridged = tunnel
        .carrier
        .as_ref()
        .is_some_and(|carrier| carrier.carrier == Carrier::Websocket);
    let endpoint = tunnel
        .endpoint
        // A bridge's is a loopback address, which says nothing.
        .filter(|_| !is_bridged)
        .map(|endpoint| format!(", gateway {endpoint}"))
        .unwrap_or_default();
    let mut text = format!(
        "{} for {}, {handshake}{endpoint}\n{}",
        tunnel.phase.as_str(),
        age(tunnel.since, now),
        describe_tcp_stack(tunnel)
    );
    if let Some(carrier) = &tunnel.carrier {
        let (name, time) = (carrier_name(carrier.carrier), age(carrier.since, now));
        // UDP's endpoint is the gateway's, which stands above.
        let through = match carrier.carrier {
            Carrier::Websocket => format!(" through {}", carrier.endpoint),
            _ => String::new(),
        };
        let _ = write!(text, "\nover {name} for {time}{through}");
        let _ = match &tunnel.path {
            Some(path) => write!(
                text,
                "\nround trip {} ms, loss {} %, path MTU {}",
                path.rtt_ms, path.loss_percent, path.mtu
            ),
            None => write!(text, "\nround trip, loss and path MTU are not measured yet"),
        };
    } else if tunnel.phase != TunnelPhase::Up && tunnel.start != TunnelStart::Refused {
        text.push_str("\nno way to the gateway answers yet; each is tried in turn");
    }
    if let Some(obstacle) = &tunnel.obstacle {
        let _ = write!(text, "\n! {obstacle}");
    }
    text
}

const fn carrier_name(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Udp => "UDP",
        Carrier::Udp443 => "UDP to port 443",
        Carrier::Websocket => "WebSocket",
        Carrier::Unknown => "something that this program does not know",
    }
}

/// `TCP stack namespace with bbr: why that one`
fn describe_tcp_stack(tunnel: &TunnelStatus) -> String {
    let part = |before: &str, part: &Option<String>| {
        let part = part.as_deref().map(|part| format!("{before}{part}"));
        part.unwrap_or_default()
    };
    format!(
        "TCP stack {}{}{}",
        tunnel.tcp_stack,
        part(" with ", &tunnel.congestion_control),
        part(": ", &tunnel.tcp_stack_reason)
    )
}

fn describe_machine(facts: &Facts) -> String {
    if facts.os.is_empty() {
        return "being detected".to_owned();
    }
    let os = if facts.os_version.is_empty() {
        &facts.os
    } else {
        &facts.os_version
    };
    let gpus: Vec<&str> = facts.gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    let gpus = if gpus.is_empty() {
        "none".to_owned()
    } else {
        gpus.join(", ")
    };
    let memory = facts.memory_mib.div_ceil(1024);
    format!(
        "{os}, {}, {} cores, {memory} GiB, GPU {gpus}",
        facts.arch, facts.cpu_cores
    )
}

fn push_check(page: &mut String, check: &Check, style: Style) {
    let (mark, colour) = match check.outcome {
        CheckOutcome::Ok => ("✓", GREEN),
        CheckOutcome::Pending | CheckOutcome::Unknown => ("…", YELLOW),
        CheckOutcome::Warning => ("!", YELLOW),
        CheckOutcome::Failed => ("✗", RED),
    };
    let mut text = check.message.clone();
    if check.outcome != CheckOutcome::Ok
        && let Some(hint) = &check.hint
    {
        let _ = write!(text, "\n→ {hint}");
    }
    for (index, line) in wrap(&text, WIDTH - INDENT).iter().enumerate() {
        if index == 0 {
            let code = check.code.as_str();
            let _ = writeln!(
                page,
                "{} {code:<width$}{line}",
                style.paint(colour, mark),
                width = INDENT - 2
            );
        } else {
            let _ = writeln!(page, "{}{}", " ".repeat(INDENT), style.paint(DIM, line));
        }
    }
}

fn row(page: &mut String, label: &str, text: &str) {
    for (index, line) in wrap(text, WIDTH - INDENT).iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        let _ = writeln!(page, "{label:<INDENT$}{line}");
    }
}

/// Lines of at most `width` characters; a word that is longer stands alone.
///
/// Control characters are taken out: some of what is shown was chosen by whoever answered the child.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let paragraph = paragraph.replace(char::is_control, " ");
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let longer = line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && longer > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// `12 s`, `3 min`, `5 h`, `2 days`.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
