//! `orfe nc` as a program: real pipes on one side, and on the other a socket that speaks as the daemon does.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;

/// Takes one connection, reads the request's line, and goes on with `play`.
fn daemon(
    socket: &Path,
    play: impl FnOnce(String, BufReader<UnixStream>) + Send + 'static,
) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).unwrap();
        play(request, stream);
    })
}

fn nc(socket: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_orfe"))
        .arg("--control")
        .arg(socket)
        .arg("nc")
        .args(arguments)
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ended(child: Child) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

const CONNECTED: &[u8] = b"{\"v\":1,\"connected\":{}}\n";

#[test]
fn the_end_of_input_goes_first_and_the_answer_still_comes() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let daemon = daemon(&socket, |request, mut stream| {
        assert_eq!(
            request,
            "{\"v\":1,\"request\":{\"connect\":{\"host\":\"build.demo.internal\",\"port\":22}}}\n"
        );
        // What the destination says at once comes in one piece with the answer.
        let first = [CONNECTED, b"SSH-2.0-banner\n"].concat();
        stream.get_mut().write_all(&first).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        stream
            .get_mut()
            .write_all(said.to_uppercase().as_bytes())
            .unwrap();
    });
    let mut child = nc(&socket, &["Build.demo.internal.", "22"]);
    child.stdin.take().unwrap().write_all(b"all that i say").unwrap();
    assert_eq!(
        ended(child),
        (
            Some(0),
            "SSH-2.0-banner\nALL THAT I SAY".to_owned(),
            String::new()
        )
    );
    daemon.join().unwrap();
}

#[test]
fn the_end_of_the_answer_closes_output_and_input_still_goes() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let daemon = daemon(&socket, |_, mut stream| {
        stream.get_mut().write_all(CONNECTED).unwrap();
        stream.get_mut().write_all(b"bye").unwrap();
        stream.get_mut().shutdown(Shutdown::Write).unwrap();
        let mut late = String::new();
        stream.read_to_string(&mut late).unwrap();
        assert_eq!(late, "late words");
    });
    let mut child = nc(&socket, &["10.0.0.1", "22"]);
    let mut answer = String::new();
    // This ends though the program still runs: its output is closed.
    child.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "bye");
    child.stdin.take().unwrap().write_all(b"late words").unwrap();
    assert_eq!(ended(child).0, Some(0));
    daemon.join().unwrap();
}

#[test]
fn a_connection_that_is_closed_as_a_whole_ends_it_though_input_stays_open() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let daemon = daemon(&socket, |_, mut stream| {
        stream.get_mut().write_all(CONNECTED).unwrap();
    });
    let mut child = nc(&socket, &["fd00::1", "22"]);
    let input = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(input);
    daemon.join().unwrap();
}

#[test]
fn exit_codes_say_what_went_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let (code, _, error) = ended(nc(&socket, &["build.demo.internal", "22"]));
    assert_eq!(code, Some(5), "{error}");
    for wrong in [
        &["build.demo.internal", "0"][..],
        &["127.1", "22"],
        &["build.demo.internal"],
        &["a", "65536"],
    ] {
        let (code, _, error) = ended(nc(&socket, wrong));
        assert_eq!(code, Some(2), "{wrong:?}: {error}");
    }
    let daemon = daemon(&socket, |_, mut stream| {
        let answer = b"{\"v\":1,\"error\":\"cannot reach build.demo.internal:22: the tunnel is down\"}\n";
        stream.get_mut().write_all(answer).unwrap();
    });
    let (code, output, error) = ended(nc(&socket, &["build.demo.internal", "22"]));
    assert_eq!((code, output.as_str()), (Some(1), ""));
    assert_eq!(
        error,
        "error: cannot reach build.demo.internal:22: the tunnel is down\n"
    );
    daemon.join().unwrap();
}
