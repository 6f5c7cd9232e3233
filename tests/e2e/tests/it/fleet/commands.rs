//! Command lines of a fleet's programs, and what they answer.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use orfe_test_support::wait::wait_for;
use serde_json::Value;

use super::{DEVICE, Fleet, PATIENCE};
use crate::programs;

impl Fleet {
    /// The daemon's command line up to the subcommand.
    pub(crate) fn agent_command(&self) -> Command {
        self.agent_command_at("state")
    }

    /// The same for another state folder.
    pub(crate) fn agent_command_at(&self, state: &str) -> Command {
        self.agent_command_with(state, "agent.sock")
    }

    /// The same with a control socket of its own.
    pub(crate) fn agent_command_with(&self, state: &str, control: &str) -> Command {
        let mut command = if self.agent_as.is_some() {
            self.with_environment(Command::new(self.path("orfe")))
        } else {
            self.device_command("orfe")
        };
        command.arg("--config").arg(self.path("agent.toml"));
        command
            .arg("--state")
            .arg(self.path(state))
            .arg("--control")
            .arg(self.path(control));
        let own = self.path("child.sh");
        let child = if own.exists() {
            own
        } else {
            programs::path("coder-stand-in-child")
        };
        command.env("ORFE_CODER_BIN", child);
        match &self.agent_as {
            Some(other) => {
                use std::os::unix::process::CommandExt as _;
                command.uid(other.user).gid(other.group);
                command.env("DOCKER_HOST", &other.docker_host);
            }
            // Whatever engine this machine has is not the test's.
            None => {
                command.env("ORFE_CONTAINERS", "off");
            }
        }
        command.env("PATH", self.child_path());
        command.envs(self.agent_environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Lets children misbehave from now on, as `CODER_STAND_IN_FAULT` says, and gives them `drain_s` to end.
    pub(crate) fn spoil_children(&self, fault: &str, drain_s: u32) {
        let real = programs::path("coder-stand-in-child");
        let script = format!(
            "#!/bin/sh\nCODER_STAND_IN_FAULT={fault} exec {} \"$@\"\n",
            real.display()
        );
        std::fs::write(self.path("child.sh"), script).unwrap();
        std::fs::set_permissions(self.path("child.sh"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let config = format!("[provisioner]\ndrain_timeout_s = {drain_s}\n");
        std::fs::write(self.path("agent.toml"), config).unwrap();
    }

    /// The daemon's own account of the device.
    pub(crate) fn status(&self) -> Option<Value> {
        let output = run(self.agent_command().args(["status", "--json"]));
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until the daemon's account satisfies `condition`.
    pub(crate) async fn wait_for_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE, || {
            let status = self.status().ok_or("the daemon does not answer".to_owned())?;
            if condition(&status) {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
        .await
        .unwrap()
    }

    pub(crate) async fn wait_until_healthy(&self) -> Value {
        self.wait_for_status("a healthy device", |status| status["health"] == "healthy")
            .await
    }

    /// Waits until the registry shows the device as `state`.
    pub(crate) async fn wait_for_registry(&self, state: &str) {
        wait_for(&format!("the registry to show {state}"), PATIENCE, || {
            let devices = self.devices();
            let shown = devices["devices"].as_array().is_some_and(|devices| {
                devices.len() == 1 && devices[0]["name"] == DEVICE && devices[0]["state"] == state
            });
            shown.then_some(()).ok_or_else(|| devices.to_string())
        })
        .await
        .unwrap();
    }

    /// `orfe-registry device list --json`.
    pub(crate) fn devices(&self) -> Value {
        let output = run(self.registry_command().args(["device", "list", "--json"]));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Pid of the provisioner, when one runs.
    pub(crate) fn child(&self) -> Option<u32> {
        let status = self.status()?;
        u32::try_from(status["provisioners"][0]["pid"].as_u64()?).ok()
    }

    pub(crate) fn registry_command(&self) -> Command {
        let mut command = match &self.registry_under {
            None => self.command("orfe-registry"),
            Some(under) => {
                let mut command = Command::new(&under.command[0]);
                command.args(&under.command[1..]).arg(self.path("orfe-registry"));
                self.with_environment(command)
            }
        };
        command.arg("--data").arg(self.path("registry"));
        command
    }

    pub(super) fn command(&self, program: &str) -> Command {
        self.with_environment(Command::new(programs::path(program)))
    }

    /// A program in the device's network.
    fn device_command(&self, program: &str) -> Command {
        let Some(lab) = &self.lab else {
            return self.command(program);
        };
        let mut command = lab.command();
        command.arg(programs::path(program));
        self.with_environment(command)
    }

    fn with_environment(&self, mut command: Command) -> Command {
        command
            .env("TMPDIR", self.path("tmp"))
            // The logs are read here: no colours, whatever the programs take for a terminal.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Our PATH, with the stand-in of terraform at its end for machines without one.
    fn child_path(&self) -> std::ffi::OsString {
        let bin = self.path("bin");
        if !bin.exists() {
            std::fs::create_dir(&bin).unwrap();
            std::os::unix::fs::symlink(programs::path("terraform-stand-in"), bin.join("terraform")).unwrap();
        }
        let own = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(std::env::split_paths(&own).chain([bin])).unwrap()
    }

    pub(crate) fn answer(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{command:?}: {said}\n{}",
            self.logs("registry")
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}
