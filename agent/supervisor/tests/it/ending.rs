//! Ending one process, and ending all of them.

use std::collections::HashSet;

use orfe_platform::process::{self, ProcessId};
use orfe_supervisor::ExitStatus;

use crate::support::{Slot, run_to_end, texts, wait_until, wait_until_gone};

/// Like terraform: in its parent's process group and session, and ended by SIGTERM.
const TERRAFORM: &str = "sh -c 'echo $$ > terraform; exec sleep 600' & ";

#[tokio::test]
async fn drain_reaches_the_child_alone() {
    let slot = Slot::new();
    let mut child = slot.spawn(&format!(
        "trap 'echo stop caught; exit 0' TERM; {TERRAFORM} while :; do read -r _ < fifo; done"
    ));
    // A shell runs its trap between two commands, so it must not hang in one.
    slot.make_fifo();
    let terraform = slot.process_of("terraform").await;
    assert!(child.handle().drain().unwrap());
    let waker = slot.feed_fifo();
    let (lines, status) = run_to_end(&mut child).await;
    waker.abort();
    assert!(texts(&lines).contains(&"stop caught"), "{lines:?}");
    assert_eq!(
        status,
        ExitStatus {
            code: Some(0),
            signal: None
        }
    );

    assert!(process::is_alive(&terraform), "a signal reached the whole group");
    assert!(!child.handle().drain().unwrap(), "nobody there to be told");
    assert_eq!(child.handle().processes().unwrap(), [terraform]);
    assert!(child.handle().kill_tree().await.unwrap());
    assert!(!process::is_alive(&terraform));
    assert!(!child.handle().kill_tree().await.unwrap(), "nobody is left");
}

#[tokio::test]
async fn interrupt_is_another_signal() {
    let slot = Slot::new();
    let mut child = slot.spawn("echo $$ > child; exec sleep 600");
    slot.process_of("child").await;
    wait_until("the shell has become sleep", || {
        name_of(child.identity().pid) == "sleep"
    })
    .await;
    assert!(child.handle().interrupt().unwrap());
    let (_, status) = run_to_end(&mut child).await;
    assert_eq!(
        status,
        ExitStatus {
            code: None,
            signal: Some(2)
        }
    );
}

#[tokio::test]
async fn signals_that_the_agent_ignores_reach_the_child() {
    let slot = Slot::new();
    // 1 HUP, 2 INT, 3 QUIT, 15 TERM: a mask with bit n-1 for signal n.
    let mut child = slot.spawn("sed -n 's/^SigIgn:[[:space:]]*//p' /proc/self/status");
    let (lines, _) = run_to_end(&mut child).await;
    let ignored = u64::from_str_radix(&lines[0].text, 16).unwrap();
    for signal in [1, 2, 3, 15] {
        assert_eq!(ignored & (1 << (signal - 1)), 0, "signal {signal} is ignored");
    }
}

#[tokio::test]
async fn kill_tree_leaves_nothing() {
    let slot = Slot::new();
    let mut child = slot.spawn(&format!(
        "{TERRAFORM}
         setsid sh -c 'echo $$ > own-session; sleep 600 & wait' &
         sh -c 'setsid sh -c \"echo \\$\\$ > double-forked; exec sleep 600\" & exit' &
         sh -c 'trap \"\" TERM INT HUP; echo $$ > stubborn; while :; do sleep 1; done' &
         wait"
    ));
    let mut processes = vec![child.identity()];
    for name in ["terraform", "own-session", "double-forked", "stubborn"] {
        processes.push(slot.process_of(name).await);
    }
    let found: HashSet<ProcessId> = child.handle().processes().unwrap().into_iter().collect();
    for id in &processes {
        assert!(found.contains(id), "{id:?} is not in {found:?}");
    }
    assert!(child.handle().kill_tree().await.unwrap());
    for id in &processes {
        assert!(!process::is_alive(id), "{id:?} is left");
    }
    assert!(child.handle().processes().unwrap().is_empty());
    let (_, status) = run_to_end(&mut child).await;
    assert_eq!(
        status,
        ExitStatus {
            code: None,
            signal: Some(9)
        }
    );
}

#[tokio::test]
async fn what_escaped_without_a_trace_is_found_by_the_marker() {
    let slot = Slot::new();
    // In a session of its own, its parent gone, and the child gone as well before anybody looked.
    let mut child =
        slot.spawn("sh -c 'setsid sh -c \"echo \\$\\$ > escaped; exec sleep 600\" & exit'; while [ ! -s escaped ]; do :; done");
    let escaped = slot.process_of("escaped").await;
    run_to_end(&mut child).await;
    assert!(process::is_alive(&escaped));
    assert!(child.handle().kill_tree().await.unwrap());
    assert!(!process::is_alive(&escaped));
}

#[tokio::test]
async fn neighbour_is_left_alone() {
    let (slot, neighbour) = (Slot::new(), Slot::new());
    let child = slot.spawn(&format!("{TERRAFORM} wait"));
    let other = neighbour.spawn(&format!("{TERRAFORM} wait"));
    slot.process_of("terraform").await;
    let others = [other.identity(), neighbour.process_of("terraform").await];
    assert!(child.handle().kill_tree().await.unwrap());
    assert!(others.iter().all(process::is_alive));
    assert!(other.handle().kill_tree().await.unwrap());
}

#[tokio::test]
async fn child_ends_while_a_descendant_holds_its_pipes() {
    let slot = Slot::new();
    let mut child = slot.spawn(&format!("{TERRAFORM} echo last; exit 3"));
    let (lines, status) = run_to_end(&mut child).await;
    assert_eq!(texts(&lines), ["last"]);
    assert_eq!(status.code, Some(3));
    let terraform = slot.process_of("terraform").await;
    assert!(child.handle().kill_tree().await.unwrap());
    assert!(!process::is_alive(&terraform));
}

#[tokio::test]
async fn dropped_handle_leaves_the_child_running() {
    let slot = Slot::new();
    let child = slot.spawn("echo $$ > child; exec sleep 600");
    slot.process_of("child").await;
    let handle = child.handle();
    drop(child);
    assert!(process::is_alive(&handle.identity()));
    assert!(handle.kill_tree().await.unwrap());
    wait_until_gone(&handle.identity()).await;
}

fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}
