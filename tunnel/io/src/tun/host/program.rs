//! Programs of the system, run for what has no stabler interface.

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time for a program. They take some milliseconds; one that waits for a service that hangs is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a program has ended: the system tells nobody who waits for a limited time.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs a program with this input; what it says is the error when it fails. Blocks for 10 s at most.
pub(super) fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    run_within(PATIENCE, program, arguments, input)
}

fn run_within(patience: Duration, program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("`{program}`: {error}"));
    let until = Instant::now() + patience;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(named)?;
    let said = converse(&mut child, input.to_owned());
    let Some(status) = wait(&mut child, until).map_err(named)? else {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("`{program}` did not end within {} s", patience.as_secs()),
        ));
    };
    if status.success() {
        return Ok(());
    }
    // Nothing, when somebody whom it started keeps the pipe open.
    let said = said
        .recv_timeout(until.saturating_duration_since(Instant::now()))
        .unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said = said.lines().next().unwrap_or("nothing");
    Err(io::Error::other(format!("`{program}` failed ({status}): {said}")))
}

/// Gives a program its input and hears what it has to say, on a thread of its own: a program that does neither read nor end
/// must not hold up who waits for it.
fn converse(child: &mut Child, input: String) -> Receiver<Vec<u8>> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let (tell, said) = mpsc::sync_channel(1);
    thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading says why on its own.
            let _ = stdin.write_all(input.as_bytes());
        }
        let mut text = Vec::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.read_to_end(&mut text);
        }
        // Nobody is interested any more when it took too long.
        let _ = tell.send(text);
    });
    said
}

/// Waits for a program's end, and kills it at `until`: then there is no status.
fn wait(child: &mut Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed_and_named() {
        let begun = Instant::now();
        let error = run_within(Duration::from_secs(1), "sleep", &["600"], "").unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "`sleep` did not end within 1 s");
    }

    #[test]
    fn a_program_that_reads_nothing_of_much_is_killed_too() {
        let input = "x".repeat(1 << 20);
        let error = run_within(Duration::from_secs(1), "sleep", &["600"], &input).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_a_program_says_is_the_error() {
        assert!(run("sh", &["-c", "grep -q hello"], "hello\n").is_ok());
        let error = run("sh", &["-c", "echo no >&2; echo more >&2; exit 3"], "").unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed (exit status: 3): no");
        // More than a pipe holds.
        let error = run("sh", &["-c", "yes no | head -c 1000000 >&2; exit 3"], "").unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed (exit status: 3): no");
        let error = run("/nonexistent/orfe", &[], "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("`/nonexistent/orfe`: "), "{error}");
    }
}
