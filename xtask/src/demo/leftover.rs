//! Finds processes of a demo that have lost their parent.
//!
//! Every part is started with `TMPDIR` inside the demo's folder, and what the parts start inherits a
//! folder below it. The folder's name is random and used once, so a process whose environment names
//! it belongs to this demo, whoever its parent is by now. This can be seen on Linux; elsewhere only
//! the parts themselves are known, by their pids.

use std::path::Path;

/// Pids of the processes, this one left out, that were started with something inside `folder` in
/// their environment. Empty where the system does not show it.
pub(crate) fn processes(folder: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id().cast_signed();
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| pid != own && belongs(pid, folder))
        .collect()
}

/// Whether the environment that `pid` was started with names something inside `folder`.
fn belongs(pid: i32, folder: &Path) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let mut needle = b"=".to_vec();
    needle.extend_from_slice(folder.as_os_str().as_encoded_bytes());
    needle.push(b'/');
    environment.windows(needle.len()).any(|window| window == needle)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio};

    use super::processes;

    #[test]
    fn a_process_is_known_by_the_folder_in_its_environment() {
        let folder = tempfile::tempdir().unwrap();
        let start = |tmp: &std::path::Path| {
            Command::new("sleep")
                .arg("60")
                .env("TMPDIR", tmp)
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut ours = start(&folder.path().join("tmp"));
        let mut other = start(folder.path().parent().unwrap());

        let found = processes(folder.path());

        for child in [&mut ours, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, [ours.id().cast_signed()]);
    }
}
