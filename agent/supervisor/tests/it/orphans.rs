//! What an earlier life of the agent left, with that life killed for real.

use std::process::{Child as StdChild, Command, Stdio};
use std::time::Duration;

use orfe_platform::process::{self, ProcessId};
use orfe_supervisor::{LogSpec, Marker, Orphan, OrphanEnd, adopt_or_end};

use crate::support::{Slot, path_variable, read, wait_until_gone};

/// Drains like the real child: it says so on stdout, which would end it if the pipe had no reader, and
/// finishes its job, for which terraform must go on.
const DRAINS: &str = r#"
    trap 'echo "Stop caught" || exit 99; echo draining > drain; wait $job; echo finished > finished; exit 0' TERM
    sh -c 'echo $$ > terraform; until [ -e release ]; do sleep 0.01; done; echo applied > applied' & job=$!
    echo $$ > child
    while :; do wait $job; done
"#;

#[tokio::test]
async fn orphan_of_a_killed_agent_is_drained() {
    let slot = Slot::new();
    let (id, terraform) = leave_orphan(&slot, DRAINS).await;
    let releaser = tokio::spawn({
        let (drain, release) = (slot.path("drain"), slot.path("release"));
        async move {
            // The job ends only after the child was told.
            crate::support::wait_until("the child drains", || drain.exists()).await;
            std::fs::write(release, b"").unwrap();
        }
    });
    let end = adopt_or_end(orphan(&slot, id, Duration::from_secs(30)))
        .await
        .unwrap();
    releaser.await.unwrap();
    assert_eq!(end, OrphanEnd::Drained);
    assert!(slot.path("applied").exists(), "terraform was left to finish");
    assert!(slot.path("finished").exists(), "the child ended by itself");
    assert!(!process::is_alive(&id) && !process::is_alive(&terraform));
    assert_eq!(
        read(&slot.path("log")),
        "Stop caught\n",
        "its last lines are kept"
    );
}

#[tokio::test]
async fn orphan_that_does_not_drain_is_killed_with_its_tree() {
    let slot = Slot::new();
    let (id, terraform) = leave_orphan(&slot, DRAINS).await;
    let end = adopt_or_end(orphan(&slot, id, Duration::from_millis(300)))
        .await
        .unwrap();
    assert_eq!(end, OrphanEnd::Killed);
    assert!(slot.path("drain").exists(), "it was asked first");
    assert!(!process::is_alive(&id) && !process::is_alive(&terraform));
}

#[tokio::test]
async fn terraform_of_a_dead_child_is_found_by_the_marker() {
    let slot = Slot::new();
    let (id, terraform) = leave_orphan(&slot, DRAINS).await;
    process::send(&id, process::Signal::Kill).unwrap();
    wait_until_gone(&id).await;
    assert!(process::is_alive(&terraform));
    let end = adopt_or_end(orphan(&slot, id, Duration::from_secs(30)))
        .await
        .unwrap();
    assert_eq!(end, OrphanEnd::Killed);
    assert!(!process::is_alive(&terraform));
}

#[tokio::test]
async fn absent_orphan_is_absent() {
    let slot = Slot::new();
    let gone = ProcessId {
        pid: 0x7fff_fff0,
        start_time: 1,
    };
    let end = adopt_or_end(orphan(&slot, gone, Duration::from_secs(30)))
        .await
        .unwrap();
    assert_eq!(end, OrphanEnd::Absent);
}

#[tokio::test]
async fn process_that_has_the_number_by_now_is_left_alone() {
    let slot = Slot::new();
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let id = process::identify(stranger.id()).unwrap().unwrap();
    let reused = ProcessId {
        start_time: id.start_time - 1,
        ..id
    };
    let end = adopt_or_end(orphan(&slot, reused, Duration::from_secs(30)))
        .await
        .unwrap();
    assert_eq!(end, OrphanEnd::Absent);
    assert!(process::is_alive(&id));

    let mut other_boot = orphan(&slot, id, Duration::from_secs(30));
    other_boot.boot_id = "00000000-0000-0000-0000-000000000000".to_owned();
    assert_eq!(adopt_or_end(other_boot).await.unwrap(), OrphanEnd::Absent);
    assert!(process::is_alive(&id));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

fn orphan(slot: &Slot, id: ProcessId, drain_limit: Duration) -> Orphan {
    Orphan {
        id,
        boot_id: process::boot_id().unwrap(),
        marker: Some(Marker {
            name: "TMPDIR".into(),
            value: slot.folder.path().into(),
        }),
        drain_limit,
        log_file: Some(LogSpec::new(slot.path("log"))),
        secrets: Vec::new(),
    }
}

/// Starts an "agent" that starts `script` as its child and reads its output, and kills that agent.
/// Returns the child and its terraform.
async fn leave_orphan(slot: &Slot, script: &str) -> (ProcessId, ProcessId) {
    std::fs::write(slot.path("script"), script).unwrap();
    // `sleep` stands for the agent's reading end of the pipe.
    let mut agent = Command::new("/bin/sh")
        .args(["-c", "setsid sh ./script | { echo $$ > agent; exec sleep 600; }"])
        .env_clear()
        .env("PATH", path_variable())
        .env("TMPDIR", slot.folder.path())
        .current_dir(slot.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let id = slot.process_of("child").await;
    let terraform = slot.process_of("terraform").await;
    slot.process_of("agent").await;
    kill_agent(&mut agent, id).await;
    assert!(process::is_alive(&id) && process::is_alive(&terraform));
    (id, terraform)
}

/// Kills the shell and the pipe's reader, so that the pipe has no reader any more.
async fn kill_agent(agent: &mut StdChild, child: ProcessId) {
    let table = process::table().unwrap();
    let parts: Vec<ProcessId> = table
        .iter()
        .filter(|entry| entry.parent == agent.id() && entry.id != child)
        .map(|entry| entry.id)
        .collect();
    assert!(!parts.is_empty(), "the reader is a child of the shell");
    agent.kill().unwrap();
    agent.wait().unwrap();
    for part in &parts {
        process::send(part, process::Signal::Kill).unwrap();
        wait_until_gone(part).await;
    }
}
