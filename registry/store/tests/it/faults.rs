//! What happens to the file when something else goes wrong.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use orfe_protocol::id::JoinCodeId;
use orfe_store::{Store, StoreError};

use crate::fixture::{Fixture, at, new_code};

const CHILD: &str = "ORFE_STORE_TEST_CHILD";

#[tokio::test]
async fn what_was_answered_is_there_after_a_reopening() {
    let fixture = Fixture::new().await;
    let device = fixture
        .store
        .devices()
        .claim(&fixture.code(1).await.claim(1), at(0))
        .await
        .unwrap();
    let path = fixture.folder.path().join("registry.sqlite");

    // The first store is not closed: its connections and its write-ahead log are still there.
    let again = Store::open(&path).await.unwrap();
    assert_eq!(
        again.devices().list().await.unwrap(),
        std::slice::from_ref(&device)
    );
    again.close().await;
    assert!(again.check().await.is_err());
    assert_eq!(fixture.store.devices().list().await.unwrap(), [device]);
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_writes_loses_nothing_that_it_was_told_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sqlite");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "faults::child_that_writes_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let kept: Vec<JoinCodeId> = lines
        .filter_map(|line| line.split_once("kept ")?.1.parse().ok())
        .take(50)
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(kept.len(), 50);

    let store = Store::open(&path).await.unwrap();
    let found: Vec<JoinCodeId> = store
        .join_codes()
        .list()
        .await
        .unwrap()
        .iter()
        .map(|code| code.id)
        .collect();
    for id in kept {
        assert!(found.contains(&id), "{id} is lost");
    }
    store.join_codes().create(&new_code(1).0).await.unwrap();
}

/// The other half of the test above; in an ordinary run it has nothing to do.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let store = Store::open(Path::new(&path)).await.unwrap();
    loop {
        let (code, _) = new_code(1);
        store.join_codes().create(&code).await.unwrap();
        println!("kept {}", code.id);
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sqlite");
    let text = "This is a letter to my landlord, and no database at all.\n".repeat(40);
    std::fs::write(&path, &text).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::NotADatabase { .. }), "{error:?}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert!(error.hint().unwrap().contains("--data"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_folder_that_takes_no_file_is_named() {
    // Nobody, root included, can make a file there.
    let error = Store::open(Path::new("/proc/orfe-registry.sqlite"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
    assert!(
        error.to_string().contains("/proc/orfe-registry.sqlite"),
        "{error}"
    );

    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(&folder.path().join("missing/registry.sqlite"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("folder exists"));
}
