//! What a child is given, and what is taken from it.

use std::os::unix::fs::MetadataExt as _;

use orfe_supervisor::{Child, EnvValue, Event, ExitStatus, LogSpec, REDACTED, SpawnError, Stream};
use secrecy::SecretString;

use crate::support::{Slot, next, path_variable, read, run_to_end, texts};

const SECRET: &str = "psk-0123456789";

#[tokio::test]
async fn environment_is_exactly_what_is_given() {
    let slot = Slot::new();
    let mut spec = slot.spec("");
    spec.program = "/usr/bin/env".into();
    spec.args = Vec::new();
    spec.env = vec![
        ("PATH".into(), EnvValue::from(path_variable())),
        ("TMPDIR".into(), EnvValue::from("/former")),
        ("TMPDIR".into(), EnvValue::from(slot.folder.path())),
        ("EMPTY".into(), EnvValue::from("")),
    ];
    let mut child = Child::spawn(&spec).unwrap();
    let (lines, status) = run_to_end(&mut child).await;
    let mut found = texts(&lines);
    found.sort_unstable();
    let path = format!("PATH={}", path_variable().to_string_lossy());
    let tmpdir = format!("TMPDIR={}", slot.folder.path().display());
    assert_eq!(found, ["EMPTY=", path.as_str(), tmpdir.as_str()]);
    assert!(status.success());
}

#[tokio::test]
async fn stdin_is_empty_and_the_folder_is_the_given_one() {
    let slot = Slot::new();
    let mut child = slot.spawn("cat; pwd");
    let (lines, _) = run_to_end(&mut child).await;
    assert_eq!(texts(&lines), [slot.folder.path().to_str().unwrap()]);
}

#[tokio::test]
async fn lines_of_each_stream_are_in_order() {
    let slot = Slot::new();
    let mut child = slot.spawn("for i in $(seq 500); do echo out $i; echo err $i >&2; done; printf last");
    let (lines, status) = run_to_end(&mut child).await;
    for (stream, name, last) in [
        (Stream::Stdout, "out", Some("last")),
        (Stream::Stderr, "err", None),
    ] {
        let found: Vec<&str> = lines
            .iter()
            .filter(|line| line.stream == stream)
            .map(|line| line.text.as_str())
            .collect();
        let mut expected: Vec<String> = (1..=500).map(|number| format!("{name} {number}")).collect();
        expected.extend(last.map(str::to_owned));
        assert_eq!(found, expected);
    }
    assert_eq!(
        status,
        ExitStatus {
            code: Some(0),
            signal: None
        }
    );
}

#[tokio::test]
async fn overlong_line_is_cut_and_the_next_one_is_whole() {
    let slot = Slot::new();
    let mut child = slot.spawn("head -c 200000 /dev/zero | tr '\\0' x; echo; echo next");
    let (lines, _) = run_to_end(&mut child).await;
    assert_eq!(lines.len(), 2);
    assert!(lines[0].cut);
    assert_eq!(lines[0].text.len(), 64 << 10);
    assert_eq!((lines[1].text.as_str(), lines[1].cut), ("next", false));
}

#[tokio::test]
async fn slow_reader_loses_the_oldest_lines_and_the_child_is_not_held_up() {
    let slot = Slot::new();
    let mut spec = slot.spec("seq 100000; touch done");
    spec.log_file = Some(LogSpec::new(slot.path("log")));
    let mut child = Child::spawn(&spec).unwrap();
    // The child is done although nobody has taken a line.
    crate::support::wait_until("the child is done", || slot.path("done").exists()).await;
    crate::support::wait_until("the log has all", || {
        read(&slot.path("log")).ends_with("\n100000\n")
    })
    .await;
    let Some(Event::Dropped { lines: dropped }) = next(&mut child).await else {
        panic!("none dropped")
    };
    let (lines, _) = run_to_end(&mut child).await;
    assert_eq!(dropped + lines.len() as u64, 100_000);
    assert_eq!(lines.last().unwrap().text, "100000");
    assert_eq!(lines[0].text, (dropped + 1).to_string());
    assert_eq!(
        read(&slot.path("log")).lines().count(),
        100_000,
        "the file has them all"
    );
}

#[tokio::test]
async fn secret_reaches_the_child_and_nothing_else() {
    let slot = Slot::new();
    let mut spec =
        slot.spec(r#"echo "$PSK" | wc -c; echo "error: psk=$PSK" >&2; tr '\0' ' ' < /proc/$$/cmdline; echo"#);
    spec.env
        .push(("PSK".into(), EnvValue::Secret(SecretString::from(SECRET))));
    spec.secrets.push(SecretString::from("proxy-password"));
    spec.log_file = Some(LogSpec::new(slot.path("log")));
    assert!(!format!("{spec:?}").contains(SECRET), "{spec:?}");
    let mut child = Child::spawn(&spec).unwrap();
    assert!(!format!("{child:?}").contains(SECRET));
    let (lines, _) = run_to_end(&mut child).await;
    let texts = texts(&lines);
    let length = (SECRET.len() + 1).to_string();
    assert!(
        texts.iter().any(|text| text.trim() == length),
        "the child has it: {texts:?}"
    );
    assert!(
        texts.contains(&format!("error: psk={REDACTED}").as_str()),
        "{texts:?}"
    );
    assert!(
        texts.iter().any(|text| text.starts_with("/bin/sh -c")),
        "{texts:?}"
    );
    assert!(!texts.iter().any(|text| text.contains(SECRET)), "{texts:?}");
    let log = read(&slot.path("log"));
    assert!(log.contains(REDACTED) && !log.contains(SECRET), "{log}");
    assert_eq!(std::fs::metadata(slot.path("log")).unwrap().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn secret_in_the_arguments_is_refused() {
    let slot = Slot::new();
    let mut spec = slot.spec(&format!("coder --psk {SECRET}"));
    spec.env
        .push(("PSK".into(), EnvValue::Secret(SecretString::from(SECRET))));
    let error = Child::spawn(&spec).unwrap_err();
    assert!(
        matches!(error, SpawnError::SecretInArguments { index: 2, .. }),
        "{error}"
    );
    assert!(!error.to_string().contains(SECRET));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let slot = Slot::new();
    let mut spec = slot.spec("");
    spec.program = slot.path("no-such-coder");
    let error = Child::spawn(&spec).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot start {}", slot.path("no-such-coder").display())
    );
    assert!(error.hint().unwrap().contains("install"));

    let mut spec = slot.spec("");
    spec.cwd = slot.path("no-such-folder");
    assert!(matches!(
        Child::spawn(&spec),
        Err(SpawnError::WorkingFolder { .. })
    ));

    let mut spec = slot.spec("");
    spec.marker = Some("NOT_GIVEN".into());
    assert!(matches!(Child::spawn(&spec), Err(SpawnError::Marker { .. })));

    let mut spec = slot.spec("");
    spec.log_file = Some(LogSpec::new(slot.path("no-such-folder/log")));
    assert!(matches!(Child::spawn(&spec), Err(SpawnError::Log(_))));
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let slot = Slot::new();
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 7", Some(7), None),
        ("kill -KILL $$", None, Some(9)),
    ] {
        let mut child = slot.spawn(script);
        let (_, status) = run_to_end(&mut child).await;
        assert_eq!(status, ExitStatus { code, signal }, "{script}");
    }
}
