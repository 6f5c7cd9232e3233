//! The stage on which the demo plays: its folder, its parts, and their order.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use tokio::process::Command;

use super::agent::Agent;
use super::artifacts::Programs;
use super::coder::{self, CoderChoice, DEMO_NAME, Target};
use super::folder::Folder;
use super::keeper::{Keeper, end_leftovers};
use super::part::{Part, Stopped};
use super::registry::{self, Registry, Session};
use super::screen::Screen;
use crate::interrupt::Interrupts;

/// How long a part may take to end after SIGTERM. A device drains its provisioner in it.
const STOP_GRACE: Duration = Duration::from_secs(12);
/// The same after a second Ctrl-C.
const IMPATIENT_GRACE: Duration = Duration::from_millis(200);

/// Everything that the demo has started or made. The field order is the order of destruction should
/// this be dropped in a panic: parts before the folder.
#[derive(Debug)]
pub(crate) struct Stage {
    parts: Vec<Part>,
    agents: Vec<Agent>,
    registry: Option<Registry>,
    doing: &'static str,
    choice: CoderChoice,
    devices: u8,
    programs: Programs,
    keep: bool,
    session: Session,
    keeper: Keeper,
    folder: Folder,
}

/// The stand-in's ready line.
#[derive(Debug, Deserialize)]
struct StandInReady {
    listening: std::net::SocketAddr,
}

/// What the devices' children need to know of Coder.
#[derive(Debug)]
struct Backstage {
    target: Target,
    psk_file: PathBuf,
    ca_file: Option<PathBuf>,
    coder_bin: PathBuf,
}

impl Stage {
    /// Makes the folder and starts the keeper; no part runs yet.
    pub(crate) fn new(programs: Programs, choice: CoderChoice, devices: u8, keep: bool) -> Result<Self> {
        let folder = Folder::create(keep)?;
        let keeper = Keeper::start(folder.path(), keep)?;
        Ok(Self {
            parts: Vec::new(),
            agents: Vec::new(),
            registry: None,
            doing: "starting",
            choice,
            devices,
            programs,
            keep,
            session: Session::LIVELY,
            keeper,
            folder,
        })
    }

    /// The same stage with the registry's usual times, as for measuring.
    #[must_use]
    pub(crate) fn with_session(mut self, session: Session) -> Self {
        self.session = session;
        self
    }

    /// The process of a part.
    pub(crate) fn pid(&self, part: &str) -> Option<u32> {
        self.parts
            .iter()
            .find(|known| known.name() == part)
            .map(Part::pid)
    }

    pub(crate) fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// What the start was at, for a demo that did not come to its end.
    pub(crate) fn doing(&self) -> &'static str {
        self.doing
    }

    /// Starts the parts in order; returns the moment at which the first device began to join.
    pub(crate) async fn start(&mut self, screen: &mut Screen) -> Result<Instant> {
        let kept = if self.keep {
            "kept when it ends"
        } else {
            "removed when it ends"
        };
        let folder = self.folder.path().display();
        screen.line(&format!("Orfe demo in {folder} ({kept}); Ctrl-C stops it"));
        let backstage = self.start_coder(screen).await?;
        let path = self.provide_terraform(screen)?;
        let ready = self.start_registry(&backstage, screen).await?;
        let started = self.start_devices(&backstage, path.as_ref()).await?;
        if let Some(dashboard) = &ready.dashboard {
            screen.part("dashboard", dashboard);
            if let Some(registry) = &self.registry {
                screen.command("next link", &registry.link_command());
            }
        }
        if let Some(agent) = self.agents.first() {
            screen.command("look", &agent.status_command());
        }
        Ok(started)
    }

    async fn start_coder(&mut self, screen: &mut Screen) -> Result<Backstage> {
        self.doing = "starting Coder";
        if let CoderChoice::Real(real) = &self.choice {
            screen.part(
                "coder",
                &format!("{}, run by {}", real.target.url, real.program.display()),
            );
            return Ok(Backstage {
                target: real.target.clone(),
                psk_file: real.psk_file.clone(),
                ca_file: real.ca_file.clone(),
                coder_bin: real.program.clone(),
            });
        }
        let psk_file = self.folder.write_private("psk", new_psk()?.as_bytes())?;
        let command = coder::stand_in_command(self.programs.path("coder-stand-in")?, &self.folder, &psk_file);
        let ready: StandInReady = self.start_part("coder-stand-in", command)?.ready().await?;
        screen.part(
            "coder",
            &format!("a STAND-IN: https://{DEMO_NAME}, known to the gateway only"),
        );
        Ok(Backstage {
            target: Target::of_stand_in(ready.listening)?,
            psk_file,
            ca_file: Some(coder::stand_in_ca(&self.folder)),
            coder_bin: self.programs.path("coder-stand-in-child")?.to_path_buf(),
        })
    }

    /// The children's PATH, when it must differ from ours because ours has no terraform.
    fn provide_terraform(&self, screen: &mut Screen) -> Result<Option<OsString>> {
        if let Some(terraform) = coder::terraform_on_path() {
            screen.part("terraform", &terraform.display().to_string());
            return Ok(None);
        }
        screen.part(
            "terraform",
            "a STAND-IN, which builds nothing: no terraform is on the PATH",
        );
        let bin = self.folder.join("bin");
        symlink(self.programs.path("terraform-stand-in")?, bin.join("terraform"))
            .context("cannot link the stand-in of terraform")?;
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(bin).chain(std::env::split_paths(&rest));
        std::env::join_paths(all)
            .map(Some)
            .context("the PATH cannot be extended")
    }

    async fn start_registry(
        &mut self,
        backstage: &Backstage,
        screen: &mut Screen,
    ) -> Result<registry::Ready> {
        self.doing = "starting the registry";
        let registry = Registry::configure(
            self.programs.path("orfe-registry")?,
            &self.folder,
            &backstage.target,
            &backstage.psk_file,
            backstage.ca_file.clone(),
            self.session,
        )?;
        let ready: registry::Ready = self.start_part("registry", registry.serve())?.ready().await?;
        screen.part(
            "registry",
            &format!("https://{}, gateway {}/udp", ready.https, ready.wireguard),
        );
        self.registry = Some(registry);
        Ok(ready)
    }

    async fn start_devices(&mut self, backstage: &Backstage, path: Option<&OsString>) -> Result<Instant> {
        self.doing = "joining the devices";
        let registry = self.registry.clone().context("no registry to join")?;
        let program = self.programs.path("orfe")?.to_path_buf();
        let mut codes = Vec::new();
        for _ in 0..self.devices {
            codes.push(registry.join_code().await?);
        }
        let started = Instant::now();
        for (number, code) in (1..).zip(&codes) {
            let agent = Agent::new(
                number,
                &program,
                &self.folder,
                &backstage.coder_bin,
                path.cloned(),
            )?;
            agent.join(code).await?;
            self.start_part(agent.name(), agent.run())?;
            self.agents.push(agent);
        }
        Ok(started)
    }

    fn start_part(&mut self, name: &str, mut command: Command) -> Result<&mut Part> {
        // By their temporary folder the keeper knows whose they are.
        command.env("TMPDIR", self.folder.tmp());
        // Their logs are files.
        command.env("NO_COLOR", "1");
        let part = Part::start(name, command, &self.folder.log(name))?;
        self.keeper.process(part.pid())?;
        self.parts.push(part);
        self.parts.last_mut().context("the part that was just started")
    }

    /// Fails when a part has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        self.parts.iter_mut().try_for_each(Part::still_runs)
    }

    /// Devices that the registry does not show as healthy, in words.
    pub(crate) async fn registry_doubts(&self) -> Result<Vec<String>> {
        let Some(registry) = &self.registry else {
            return Ok(vec!["the registry does not run yet".to_owned()]);
        };
        let states = registry.device_states().await?;
        let shown = |name: &str| {
            states
                .iter()
                .find(|(device, _)| device == name)
                .map(|(_, state)| state.as_str())
        };
        Ok(self
            .agents
            .iter()
            .filter_map(|agent| match shown(agent.name()) {
                Some("healthy") => None,
                Some(state) => Some(format!("registry: shows {} as {state}", agent.name())),
                None => Some(format!("registry: does not know {}", agent.name())),
            })
            .collect())
    }

    /// Stops every part in the reverse of their start and removes the folder. A signal while it waits
    /// shortens the grace of what is left.
    pub(crate) async fn stop(mut self, screen: &mut Screen, interrupts: &mut Interrupts) -> Result<()> {
        screen.line("stopping");
        let mut impatient = false;
        let mut result = Ok(());
        while let Some(mut part) = self.parts.pop() {
            let stopped = tokio::select! {
                stopped = part.stop(if impatient { IMPATIENT_GRACE } else { STOP_GRACE }) => stopped,
                () = interrupts.next() => {
                    impatient = true;
                    part.stop(IMPATIENT_GRACE).await
                }
            };
            match stopped {
                Ok(Stopped::Itself(status)) => {
                    if let Some(code @ 1..) = status.code() {
                        screen.change(&format!("{} ended with exit status {code}", part.name()));
                    }
                }
                Ok(Stopped::Killed) => {
                    screen.change(&format!("{} did not end by itself and was killed", part.name()));
                }
                Err(error) => result = result.and(Err(error)),
            }
            result = result.and(self.keeper.gone(part.pid()));
        }
        let orphans = end_leftovers(self.folder.path());
        if orphans > 0 {
            screen.change(&format!(
                "ended {orphans} processes that had outlived their parent"
            ));
        }
        let path = self.folder.path().to_path_buf();
        let result = result.and(self.folder.remove()).and(self.keeper.done());
        match (&result, self.keep) {
            (Ok(()), true) => screen.line(&format!("stopped; the folder is kept: {}", path.display())),
            (Ok(()), false) => screen.line("stopped; nothing is left"),
            (Err(_), _) => {}
        }
        result
    }
}

/// A fresh provisioner PSK for the stand-in.
fn new_psk() -> Result<String> {
    let mut bytes = [0_u8; 24];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness for the PSK: {error}"))?;
    Ok(HEXLOWER.encode(&bytes))
}
