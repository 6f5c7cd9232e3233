//! Every recorded case of the groups a–g, k, l and n, run against the child, side by side, ten times as fast.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::recordings::{self, Case};
use crate::runner::{self, Outcome, World};

const GROUPS: [char; 10] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'k', 'l', 'n'];
/// Cases at a time: more would make a small machine late.
const SIDE_BY_SIDE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_child_agrees_with_every_recorded_case() {
    let Some(folder) = recordings::folder() else {
        return;
    };
    let mut cases = recordings::cases(&folder, &GROUPS);
    assert!(cases.len() >= 40, "only {} cases found", cases.len());
    // The longest first, so that none of them is left for the end.
    cases.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    let twins: Vec<Case> = cases
        .iter()
        .filter(|case| case.name.starts_with('n'))
        .cloned()
        .collect();
    cases.retain(|case| !case.name.starts_with('n'));

    let room = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut running = JoinSet::new();
    {
        let room = Arc::clone(&room);
        running.spawn(async move {
            let _both = room.acquire_many(2).await.unwrap();
            same_name(&twins).await
        });
    }
    for case in cases {
        let room = Arc::clone(&room);
        running.spawn(async move {
            let _one = room.acquire().await.unwrap();
            vec![runner::run(&case).await]
        });
    }
    let mut outcomes: Vec<Outcome> = running.join_all().await.into_iter().flatten().collect();
    outcomes.sort_by(|one, other| one.case.cmp(&other.case));
    compare_heads(&folder, &mut outcomes);
    report(&outcomes);
}

/// Two daemons with one name on one server; the second is started when the first is connected.
async fn same_name(twins: &[Case]) -> Vec<Outcome> {
    let [second, first] = twins else {
        panic!("two cases of one name are recorded")
    };
    let (first, second) = if first.name < second.name {
        (first, second)
    } else {
        (second, first)
    };
    let world = World::build(first).await;
    let server = world.server.as_ref().unwrap();
    let second = async {
        let connected = || {
            if server.daemons().is_empty() {
                Err("the first".to_owned())
            } else {
                Ok(())
            }
        };
        let patience = std::time::Duration::from_secs(30);
        orfe_test_support::wait::wait_for("the first daemon", patience, connected)
            .await
            .unwrap();
        runner::run_in(second, &world, Path::new(runner::CHILD)).await
    };
    let (first, second) = tokio::join!(runner::run_in(first, &world, Path::new(runner::CHILD)), second);
    vec![first, second]
}

/// The heads of the child's requests against the recorded ones: method, address and the names of headers.
fn compare_heads(folder: &Path, outcomes: &mut [Outcome]) {
    for outcome in outcomes {
        let file = folder.join(format!("{}.http.txt", outcome.case));
        let Ok(recorded) = std::fs::read_to_string(file) else {
            continue;
        };
        let recorded: Vec<String> = recorded
            .split("--- from the ")
            .filter(|part| part.starts_with("child") || part.starts_with("GET "))
            .map(|part| head(part.trim_start_matches("child\n")))
            .collect();
        let actual: Vec<String> = outcome
            .heads
            .iter()
            .map(|bytes| head(&String::from_utf8_lossy(bytes)))
            .collect();
        if recorded != actual {
            outcome
                .differences
                .push(format!("requests: recorded {recorded:#?}, actual {actual:#?}"));
        }
    }
}

fn head(text: &str) -> String {
    let mut lines = text.lines();
    let request = lines.next().unwrap();
    let [method, target, version] = request.split(' ').collect::<Vec<_>>()[..] else {
        // The recording has a placeholder with spaces for the key in the address.
        let path = request.split("/provisionerkeys/").next().unwrap();
        return format!("{path}/provisionerkeys/KEY {}", names(lines));
    };
    let target = match target.split_once("/provisionerkeys/") {
        Some((before, _)) => return format!("{method} {before}/provisionerkeys/KEY {}", names(lines)),
        // Tags come from a map in the real program: in any order.
        None => match target.split_once('?') {
            Some((path, query)) => {
                let mut pairs: Vec<&str> = query.split('&').collect();
                pairs.sort_unstable();
                format!("{path}?{}", pairs.join("&"))
            }
            None => target.to_owned(),
        },
    };
    format!("{method} {target} {version} {}", names(lines))
}

fn names<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = lines
        .take_while(|line| line.contains(": "))
        .filter_map(|line| line.split(": ").next())
        .collect();
    names.sort_unstable();
    names.join(",")
}

fn report(outcomes: &[Outcome]) {
    let mut disagreeing = Vec::new();
    for outcome in outcomes {
        let verdict = match (outcome.differences.is_empty(), outcome.strict) {
            (true, true) => "agrees",
            (true, false) => "agrees, goroutines in another order",
            (false, _) => "DIFFERS",
        };
        println!("{:<45} {:>3} lines  {verdict}", outcome.case, outcome.lines);
        if !outcome.differences.is_empty() {
            disagreeing.push(format!(
                "{}\n  {}",
                outcome.case,
                outcome.differences.join("\n  ")
            ));
        }
    }
    let agreeing = outcomes
        .iter()
        .filter(|outcome| outcome.differences.is_empty())
        .count();
    let strictly = outcomes
        .iter()
        .filter(|one| one.differences.is_empty() && one.strict)
        .count();
    crate::announce(&format!(
        "{agreeing} of {} cases agree ({strictly} of them line by line)",
        outcomes.len()
    ));
    assert!(disagreeing.is_empty(), "{}", disagreeing.join("\n"));
}
