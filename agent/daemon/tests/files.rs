//! What the program says of the files that it may open.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::net::TcpListener;
use std::process::Command;

/// What the forwarder says under a limit of files. It ends at once, because its port is taken.
fn said_with(files: u32) -> String {
    let taken = TcpListener::bind("[::]:0")
        .or_else(|_| TcpListener::bind("0.0.0.0:0"))
        .unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh"])
        .arg(env!("CARGO_BIN_EXE_orfe"))
        .args([
            "forwarder",
            "--agent",
            "/nonexistent/door.sock",
            "--from",
            "127.0.0.0/8",
            "--port",
            &port,
        ])
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_hard_limit_of_files_in_the_way_is_said_once_with_both_numbers() {
    let said = said_with(512);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("open files")).collect();
    let [line] = lines[..] else { panic!("{said}") };
    for part in ["WARN", "files=512", "wanted=8192", "LimitNOFILE"] {
        assert!(line.contains(part), "{line}");
    }
    let said = said_with(8192);
    assert!(!said.contains("open files"), "{said}");
}
