//! Tasks that look at the machine, again and again, and tell the core.
//!
//! What is wrong is looked at often, so that mending it shows at once; what is right is looked at rarely, so that an
//! idle laptop sleeps.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use orfe_core::agent::Input;
use orfe_core::health::{self, Terraform};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::facts;

/// While something is missing.
const SOON: Duration = Duration::from_secs(10);

/// While all is well.
const LATER: Duration = Duration::from_secs(300);

/// How often the free disk space is read while there is plenty.
const DISK: Duration = Duration::from_secs(60);

/// How often it is looked whether a Docker engine that is not there has come: many machines never have one. As long as there is
/// nothing at its place, this costs one look at a folder.
const NO_DOCKER: Duration = Duration::from_secs(60);

/// How long `terraform version` may take; it answers in 0.1 s where the disk is awake.
const TERRAFORM_TIMEOUT: Duration = Duration::from_secs(20);

/// Hardware and Docker.
pub(super) async fn watch_facts(inputs: mpsc::Sender<Input>) {
    let root = orfe_hardware::Root::system();
    loop {
        let found = orfe_hardware::probe(&root).await;
        for problem in &found.problems {
            tracing::debug!(%problem, "a fact could not be read");
        }
        let has_engine = found.docker.is_present();
        if inputs
            .send(Input::Facts(Box::new(facts::to_wire(&found))))
            .await
            .is_err()
        {
            return;
        }
        if has_engine {
            sleep(LATER).await;
        } else {
            engine_or_later(NO_DOCKER, LATER, || orfe_hardware::may_have_engine(&root)).await;
        }
    }
}

/// Waits until an engine may have come, which is looked at every `look`, and at most until all is looked at again anyway.
async fn engine_or_later(look: Duration, at_most: Duration, mut may_have_engine: impl FnMut() -> bool) {
    let mut waited = Duration::ZERO;
    while waited < at_most {
        sleep(look).await;
        waited += look;
        if may_have_engine() {
            return;
        }
    }
}

/// terraform on the provisioners' PATH.
pub(super) async fn watch_terraform(path: OsString, inputs: mpsc::Sender<Input>) {
    loop {
        let found = look_for_terraform(&path).await;
        let pause = if matches!(found, Terraform::Found { .. }) {
            LATER
        } else {
            SOON
        };
        if inputs.send(Input::Terraform(found)).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

/// Room on the disk of the state folder.
pub(super) async fn watch_disk(state: PathBuf, inputs: mpsc::Sender<Input>) {
    loop {
        let free = orfe_platform::process::free_space(&state)
            .ok()
            .map(|bytes| bytes / (1024 * 1024));
        let plenty = free.is_some_and(|free| free >= health::DISK_WARNING_MIB);
        if inputs.send(Input::DiskFree(free)).await.is_err() {
            return;
        }
        sleep(if plenty { DISK } else { SOON }).await;
    }
}

async fn look_for_terraform(path: &OsStr) -> Terraform {
    let Some(program) = find_program(OsStr::new("terraform"), path) else {
        return Terraform::Missing;
    };
    let run = Command::new(&program)
        .args(["version", "-json"])
        .env_clear()
        .env("PATH", path)
        // terraform must not ask the network whether there is a newer one.
        .env("CHECKPOINT_DISABLE", "1")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(TERRAFORM_TIMEOUT, run).await {
        Ok(Ok(output)) => health::read_terraform_version(&String::from_utf8_lossy(&output.stdout)),
        Ok(Err(error)) => Terraform::Broken {
            reason: format!("{} cannot be run: {error}", program.display()),
        },
        Err(_) => Terraform::Broken {
            reason: format!("{} does not answer", program.display()),
        },
    }
}

/// Finds a program as a shell would: a path is taken as it is, a name is looked for on `path`.
pub(super) fn find_program(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let given = PathBuf::from(name);
    if given.components().count() > 1 {
        return is_program(&given).then_some(given);
    }
    // Relative entries of a PATH mean the current folder, which is nobody's choice for a daemon.
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(folder: &std::path::Path, name: &str, script: &str, mode: u32) {
        let file = folder.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn an_engine_that_comes_ends_the_wait() {
        let moment = Duration::from_millis(1);
        for (comes_at, looks) in [(1, 1), (2, 2), (9, 3)] {
            let mut looked = 0;
            engine_or_later(moment, 3 * moment, || {
                looked += 1;
                looked == comes_at
            })
            .await;
            assert_eq!(looked, looks);
        }
    }

    #[tokio::test]
    async fn terraform_is_found_missing_or_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().as_os_str();
        assert_eq!(look_for_terraform(path).await, Terraform::Missing);
        program(folder.path(), "terraform", "", 0o644);
        assert_eq!(look_for_terraform(path).await, Terraform::Missing);
        program(
            folder.path(),
            "terraform",
            "echo '{\"terraform_version\":\"1.5.7\"}'",
            0o755,
        );
        assert_eq!(
            look_for_terraform(path).await,
            Terraform::Found {
                version: "1.5.7".into()
            }
        );
        program(folder.path(), "terraform", "exit 1", 0o755);
        assert!(matches!(look_for_terraform(path).await, Terraform::Broken { .. }));
    }

    #[test]
    fn relative_entries_of_a_path_are_left_out() {
        assert_eq!(find_program(OsStr::new("sh"), OsStr::new(".:bin")), None);
        assert!(find_program(OsStr::new("sh"), OsStr::new(".:/bin")).is_some());
        assert!(find_program(OsStr::new("/bin/sh"), OsStr::new("")).is_some());
    }
}
