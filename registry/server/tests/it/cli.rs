//! The command line against a registry that runs, and against none.

use std::process::ExitCode;

use clap::CommandFactory as _;
use orfe_registry::cli::Cli;

use crate::agent::Agent;
use crate::site::{Site, cli};

/// The help of every command, as it is printed at 80 columns.
#[test]
fn help_is_as_it_was_read_last() {
    let mut command = Cli::command();
    command.build();
    let mut text = String::new();
    render(&mut command, &mut text);
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "a line of {widest:?} columns");
    insta::assert_snapshot!("help", text);
}

fn render(command: &mut clap::Command, text: &mut String) {
    let help = command.render_long_help();
    let name = command.get_bin_name().unwrap_or_default();
    for part in ["==== ", name, "\n", &help.to_string(), "\n"] {
        text.push_str(part);
    }
    for subcommand in command
        .get_subcommands_mut()
        .filter(|subcommand| subcommand.get_name() != "help")
    {
        render(subcommand, text);
    }
}

#[tokio::test]
async fn without_a_registry_every_question_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["device", "list"][..],
        &["join-code", "create"],
        &["dashboard", "link"],
    ] {
        let failure = cli(folder.path(), args).await.unwrap_err();
        let shown = failure
            .to_string()
            .replace(&folder.path().display().to_string(), "DATA");
        insta::allow_duplicates! {
            insta::assert_snapshot!(shown, @r"
            error: no registry runs on DATA
            hint: start one with `orfe-registry serve`, or name its data folder with `--data`
            ");
        }
    }
}

#[tokio::test]
async fn a_data_folder_too_deep_for_a_socket_is_told_with_its_length() {
    let deep = std::path::PathBuf::from(format!("/{}", "d".repeat(120)));
    let failure = cli(&deep, &["device", "list"]).await.unwrap_err();
    let shown = failure.to_string().replace(&"d".repeat(120), "DEEP");
    insta::assert_snapshot!(shown, @r"
    error: the control socket's path /DEEP/admin.sock has 132 bytes, and 100 is the most a unix socket takes
    hint: choose a shorter path with `--data`
    ");
}

#[tokio::test]
async fn a_tag_key_stands_once() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "join-code",
        "create",
        "--tag",
        "owner=a",
        "--tag",
        "x=1",
        "--tag",
        "owner=b",
    ];
    let failure = cli(folder.path(), &args).await.unwrap_err();
    insta::assert_snapshot!(failure, @r"
    error: tag `owner` is given twice, as `a` and as `b`
    hint: give each key once
    ");
}

#[test]
fn boringtun_is_always_quiet() {
    use clap::Parser as _;
    for (args, filter) in [
        (
            &["orfe-registry", "serve", "--log", "debug"][..],
            "debug,boringtun=off",
        ),
        (
            &["orfe-registry", "--log", "info", "device", "list"],
            "warn,boringtun=off",
        ),
    ] {
        assert_eq!(Cli::try_parse_from(args).unwrap().log_filter(), filter);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let site = Site::new().await;
    let mut shown = String::new();
    for (code, args) in [
        (1_u8, &["device", "show", "nobody"][..]),
        (1, &["device", "revoke", "nobody"]),
        (
            1,
            &["join-code", "revoke", "01990f3e-5d2c-7b1a-9c1e-0a1b2c3d4e5f"],
        ),
    ] {
        let failure = site.cli(args).await.unwrap_err();
        assert_eq!(failure.exit_code(), ExitCode::from(code), "{args:?}");
        shown.push_str(&failure.to_string());
    }
    insta::assert_snapshot!(shown, @r"
    error: there is no device `nobody`
    hint: `orfe-registry device list` names them all
    error: there is no device `nobody`
    hint: `orfe-registry device list` names them all
    error: there is no join code `01990f3e-5d2c-7b1a-9c1e-0a1b2c3d4e5f`
    hint: `orfe-registry join-code list` names them all
    ");
    site.registry.shutdown().await;
}

/// A value out of its range is a mistake of the caller's, whether a registry runs or not.
#[tokio::test]
async fn what_is_out_of_range_is_found_before_a_registry_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let many = vec!["--allowed=coder.example.com"; 65];
    let tags: Vec<String> = (0..33).map(|number| format!("--tag=t{number}=x")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let mut shown = String::new();
    for args in [
        &["join-code", "create", "--ttl", "8d"][..],
        &["join-code", "create", "--ttl", "0s"],
        &["join-code", "create", "--note", "two\nlines"],
        &["join-code", "create", "--via-tunnel", "--uses", "2"],
        &[&["join-code", "create"], &tags[..]].concat(),
        &["peer", "add", "bob", "--ttl", "4000d"],
        &[&["peer", "add", "bob"], &many[..]].concat(),
        &["gateway", "rotate-key", "--after", "366d"],
    ] {
        let failure = cli(folder.path(), args).await.unwrap_err();
        assert_eq!(failure.exit_code(), ExitCode::from(2), "{args:?}");
        shown.push_str(&failure.to_string());
    }
    insta::assert_snapshot!(shown, @r"
    error: a join code lives 1 second to 7 days
    hint: see `--ttl`
    error: a join code lives 1 second to 7 days
    hint: see `--ttl`
    error: a note is one line of 200 characters at most
    hint: see `--note`
    error: a join code with `--via-tunnel` has one use, not 2
    hint: leave `--uses` out and make a code for each device; its one-time WireGuard key cannot be shared
    error: a join code gives, and a device has, 32 granted tags at most, not 33
    hint: leave out what no template asks for, or take tags away with `orfe-registry device tag --remove`
    error: a peer lives 1 second to 3650 days
    hint: see `--ttl`
    error: a peer is narrowed to 64 destinations at most
    hint: give the peer an entry of its own with `for_peers` in the policy
    error: an old key ends by itself after 1 second to 365 days
    hint: see `--after`
    ");
}

#[test]
fn a_number_of_uses_out_of_range_is_told_the_range() {
    use clap::Parser as _;
    let mut shown = String::new();
    for uses in ["0", "1001", "4294967296"] {
        let args = ["orfe-registry", "join-code", "create", "--uses", uses];
        let error = Cli::try_parse_from(args).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        shown.push_str(error.to_string().lines().next().unwrap());
        shown.push('\n');
    }
    insta::assert_snapshot!(shown, @r"
    error: invalid value '0' for '--uses <N>': 0 is not in 1..=1000
    error: invalid value '1001' for '--uses <N>': 1001 is not in 1..=1000
    error: invalid value '4294967296' for '--uses <N>': 4294967296 is not in 1..=1000
    ");
}

/// The admin socket is an interface of its own, and what is found by our CLI may come from another.
#[tokio::test]
async fn the_registry_itself_refuses_what_is_out_of_range() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let site = Site::new().await;
    let socket = site.data().join("admin.sock");
    let tags: Vec<String> = (0..33).map(|number| format!("\"t{number}\":\"x\"")).collect();
    for body in [
        r#"{"tags":{},"uses":0,"ttl_s":60,"note":""}"#.to_owned(),
        r#"{"tags":{},"uses":1,"ttl_s":691200,"note":""}"#.to_owned(),
        format!(
            r#"{{"tags":{{{}}},"uses":1,"ttl_s":60,"note":""}}"#,
            tags.join(",")
        ),
    ] {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let request = format!(
            "POST /v1/join-codes HTTP/1.1\r\nhost: registry\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("a join code "), "{answer}");
    }
    site.registry.shutdown().await;
}

#[tokio::test]
async fn join_codes_are_made_listed_and_revoked() {
    let site = Site::new().await;
    assert!(
        site.cli(&["join-code", "list"])
            .await
            .unwrap()
            .starts_with("no join codes yet")
    );
    let code = site.join_code(&["--uses", "3", "--note", "for the lab"]).await;
    let list = site.cli(&["join-code", "list"]).await.unwrap();
    assert!(
        list.contains(&code.id.to_string()) && list.contains("open") && list.contains("0/3"),
        "{list}"
    );
    assert!(!list.contains(code.secret.to_text().expose()));
    site.cli(&["join-code", "revoke", &code.id.to_string()])
        .await
        .unwrap();
    assert!(
        site.cli(&["join-code", "list"])
            .await
            .unwrap()
            .contains("revoked")
    );

    let json: serde_json::Value =
        serde_json::from_str(&site.cli(&["join-code", "create", "--json"]).await.unwrap()).unwrap();
    assert_eq!(json["version"], 1);
    assert!(json["code"].as_str().unwrap().starts_with("orfe1-"));
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_link_leads_into_the_dashboard() {
    let site = Site::new().await;
    let (_agent, _) = Agent::joined(&site).await;
    let link = site.cli(&["dashboard", "link"]).await.unwrap();
    assert!(
        link.starts_with("http://127.0.0.1:") && link.contains("/enter/"),
        "{link}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&site.cli(&["dashboard", "link", "--json"]).await.unwrap()).unwrap();
    assert_eq!(json["version"], 1);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn version_and_completions_need_no_registry() {
    let folder = tempfile::tempdir().unwrap();
    let version = cli(folder.path(), &["version"]).await.unwrap();
    assert_eq!(version, format!("orfe-registry {}\n", env!("CARGO_PKG_VERSION")));
    let json: serde_json::Value =
        serde_json::from_str(&cli(folder.path(), &["version", "--json"]).await.unwrap()).unwrap();
    assert_eq!(json["orfe_registry"], env!("CARGO_PKG_VERSION"));
    assert!(
        cli(folder.path(), &["completions", "bash"])
            .await
            .unwrap()
            .contains("join-code")
    );
}
