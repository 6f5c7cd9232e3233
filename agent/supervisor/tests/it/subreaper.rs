//! The agent as the parent of orphans.
//!
//! The role belongs to a whole process, and would draw the orphans of all other tests to this one. So each
//! test here starts this program again with itself as the only test, and there takes the role.

use std::process::Command;

use orfe_platform::process;
use orfe_supervisor::{Child, Event, become_subreaper};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{LIMIT, Slot, next, run_to_end, wait_until};

/// Says to the second process that it is the second one.
const ALONE: &str = "ORFE_TEST_ALONE";

/// Leaves a process without a parent in a session of its own, which waits for a line in `fifo`, and ends with 9.
const LEAVES_ORPHAN: &str = "
    sh -c 'setsid sh -c \"echo \\$\\$ > orphan; read -r _ < fifo\" & exit'
    while [ ! -s orphan ]; do sleep 0.01; done
    exit 9";

#[tokio::test]
async fn orphans_are_cleaned_up_and_no_exit_status_is_taken() {
    if !alone("subreaper::orphans_are_cleaned_up_and_no_exit_status_is_taken") {
        return;
    }
    let role = Role::take();
    let slot = Slot::new();
    slot.make_fifo();
    let mut child = slot.spawn(LEAVES_ORPHAN);
    let orphan = slot.process_of("orphan").await;
    let (_, status) = run_to_end(&mut child).await;
    assert_eq!(status.code, Some(9), "the reaper took the child's status");
    let table = process::table().unwrap();
    let parent = table
        .iter()
        .find(|entry| entry.id == orphan)
        .map(|entry| entry.parent);
    assert_eq!(
        parent,
        Some(std::process::id()),
        "an orphan comes to the subreaper"
    );

    let feeder = slot.feed_fifo();
    let reaped = || process::identify(orphan.pid).unwrap() != Some(orphan);
    wait_until("the orphan has left the process table", reaped).await;
    feeder.abort();
    role.leave().await;
}

#[tokio::test]
async fn orphan_without_a_marker_is_killed_with_the_only_tree() {
    if !alone("subreaper::orphan_without_a_marker_is_killed_with_the_only_tree") {
        return;
    }
    let role = Role::take();
    let slot = Slot::new();
    slot.make_fifo();
    let mut spec = slot.spec(LEAVES_ORPHAN);
    spec.marker = None;
    let elsewhere = Slot::new();
    let other = elsewhere.spawn("exec sleep 600");
    let mut child = Child::spawn(&spec).unwrap();
    let orphan = slot.process_of("orphan").await;
    run_to_end(&mut child).await;

    assert!(
        !child.handle().kill_tree().await.unwrap(),
        "it may be of either tree"
    );
    assert!(process::is_alive(&orphan));
    assert!(other.handle().kill_tree().await.unwrap());
    drop(other);
    assert!(child.handle().kill_tree().await.unwrap());
    assert!(!process::is_alive(&orphan));
    role.leave().await;
}

#[tokio::test]
async fn many_short_children_keep_their_status() {
    if !alone("subreaper::many_short_children_keep_their_status") {
        return;
    }
    let role = Role::take();
    for round in 0..10 {
        let slot = Slot::new();
        let mut children: Vec<Child> = (0..4)
            .map(|number| slot.spawn(&format!("exit {}", round + number)))
            .collect();
        for (expected, child) in (round..).zip(&mut children) {
            let Some(Event::Exited(status)) = next(child).await else {
                panic!("the child wrote something")
            };
            assert_eq!(status.code, Some(expected));
        }
    }
    role.leave().await;
}

/// Whether this process runs the test alone. If not, it is run in one that does, and has passed there.
fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("1 passed"), "the name is right: {said}");
    false
}

struct Role {
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Role {
    fn take() -> Self {
        let token = CancellationToken::new();
        let task = tokio::spawn(become_subreaper().unwrap().run(token.clone()));
        Self { token, task }
    }

    async fn leave(self) {
        self.token.cancel();
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}
