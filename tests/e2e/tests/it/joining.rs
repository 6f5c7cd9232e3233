//! Joining, and everything that can be wrong with it: each error says what, why and what to do.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use orfe_protocol::join_code::{JoinCode, SpkiPin};
use orfe_protocol::key::NoisePrivateKey;
use orfe_test_support::ports;

use crate::fleet::{Fleet, write_private};

/// What a command said and how it ended.
struct Said {
    code: Option<i32>,
    error: String,
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code(),
        error: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `orfe join -` with this code, on a state folder of its own.
fn join(fleet: &Fleet, state: &str, code: &str) -> Said {
    let file = fleet.path(&format!("{state}.code"));
    write_private(&file, code);
    let mut command = fleet.agent_command_at(state);
    command
        .args(["join", "-", "--name", "another"])
        .stdin(std::fs::File::open(file).unwrap());
    said(&command.output().unwrap())
}

fn new_code(fleet: &Fleet) -> String {
    fleet
        .answer(fleet.registry_command().args(["join-code", "create"]))
        .trim()
        .to_owned()
}

#[track_caller]
fn assert_says(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, Some(code), "{}", said.error);
    assert!(said.error.starts_with("error: "), "{}", said.error);
    for part in parts.iter().chain(&["hint: "]) {
        assert!(
            said.error.contains(part),
            "`{part}` is missing in:\n{}",
            said.error
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_code_is_named_and_leaves_the_machine_as_it_was() {
    let fleet = Fleet::start().await;
    let code = new_code(&fleet);
    assert_says(
        &join(&fleet, "a", "hello"),
        2,
        &["cannot read the join code", "starts with `orfe1-`"],
    );
    assert_says(
        &join(&fleet, "b", &code[..code.len() - 9]),
        2,
        &["cut short or mistyped"],
    );

    let read: JoinCode = code.parse().unwrap();
    let altered = |change: &dyn Fn(&mut JoinCode)| {
        let mut altered = read.clone();
        change(&mut altered);
        altered.to_text().to_string()
    };
    let other_key = altered(&|code| code.registry_key = NoisePrivateKey::generate().unwrap().public_key());
    assert_says(
        &join(&fleet, "c", &other_key),
        1,
        &["does not hold the key that the join code names"],
    );
    let other_pin = altered(&|code| code.spki_pin = Some(SpkiPin([7; 32])));
    assert_says(
        &join(&fleet, "d", &other_pin),
        1,
        &["not the one that the join code pins"],
    );
    let nobody = format!("https://127.0.0.1:{}", ports::free_tcp().unwrap().port());
    let elsewhere = altered(&|code| code.registry_url = nobody.parse().unwrap());
    assert_says(
        &join(&fleet, "e", &elsewhere),
        1,
        &["cannot reach the registry at 127.0.0.1:", "refused"],
    );

    // None of that used the code up, and none of it enrolled anything.
    assert!(!fleet.path("e/identity.json").exists());
    assert_eq!(join(&fleet, "f", &code).code, Some(0));
    assert_says(&join(&fleet, "g", &code), 1, &["the registry refused", "used"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_and_expired_codes_are_told_apart() {
    let fleet = Fleet::start().await;
    let code = new_code(&fleet);
    let id = code.parse::<JoinCode>().unwrap().id.to_string();
    fleet.answer(fleet.registry_command().args(["join-code", "revoke", &id]));
    assert_says(&join(&fleet, "a", &code), 1, &["the registry refused", "revoked"]);

    let short = fleet.answer(
        fleet
            .registry_command()
            .args(["join-code", "create", "--ttl", "1s"]),
    );
    orfe_test_support::wait::wait_for("the code to expire", crate::fleet::PATIENCE, || {
        let list = fleet.answer(fleet.registry_command().args(["join-code", "list", "--json"]));
        list.contains("expired").then_some(()).ok_or(list)
    })
    .await
    .unwrap();
    assert_says(
        &join(&fleet, "b", &short),
        1,
        &["the registry refused", "expired"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_once_and_one_process_works_on_its_folder() {
    let mut fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;
    let code = new_code(&fleet);
    assert_says(
        &join(&fleet, "state", &code),
        1,
        &[
            "another Orfe process works on this state folder",
            "with `--state`",
        ],
    );
    fleet.stop_agent();
    std::fs::remove_file(fleet.path("state.code")).unwrap();
    assert_says(
        &join(&fleet, "state", &code),
        1,
        &["already joined this registry", "was not used"],
    );
    assert_eq!(join(&fleet, "other", &code).code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_daemon_cannot_start_with_is_named() {
    let fleet = Fleet::start().await;
    let run = |command: &mut Command| said(&command.stdin(Stdio::null()).output().unwrap());

    let fresh = run(fleet.agent_command_at("fresh").arg("run"));
    assert_says(&fresh, 1, &["has not joined a registry yet", "orfe join -"]);
    assert!(!fleet.path("fresh").exists(), "who did not join has no state");

    std::fs::write(fleet.path("agent.toml"), "[log]\nfilter = info\n").unwrap();
    let broken = run(fleet.agent_command_at("fresh").arg("run"));
    assert_says(&broken, 2, &["agent.toml, line 2, column 10"]);
    std::fs::write(fleet.path("agent.toml"), "").unwrap();

    std::fs::create_dir(fleet.path("open")).unwrap();
    std::fs::set_permissions(fleet.path("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let open = run(fleet.agent_command_at("open").arg("run"));
    assert_says(&open, 1, &["open to other users"]);

    // Somebody else's folder, for an ordinary user.
    if nix::unistd::geteuid().is_root() {
        let agent = fleet.agent_command_at("state");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
            .arg(agent.get_program())
            .args(["--state", "/root/orfe-of-root", "run"]);
        let foreign = run(command.env("HOME", "/nonexistent"));
        assert_says(&foreign, 4, &["/root/orfe-of-root"]);
    } else {
        eprintln!("SKIPPED: a state folder of another user: only root can become somebody else");
    }

    // A user's own mount namespace, where the state folder is a file system of 16 KiB that is full.
    let state = fleet.path("small");
    std::fs::create_dir(&state).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16k,mode=700 none {0} && head -c 16384 /dev/zero > {0}/ballast; exec \"$@\"",
        state.display()
    );
    let agent = fleet.agent_command_at("small");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    command
        .arg(agent.get_program())
        .args(agent.get_args())
        .args(["join", &new_code(&fleet)]);
    let full = run(&mut command);
    assert_says(&full, 1, &["small"]);
    assert!(
        full.error.contains("disk is full") || full.error.contains("No space left"),
        "{}",
        full.error
    );
}
