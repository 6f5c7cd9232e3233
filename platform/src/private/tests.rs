use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

#[test]
fn a_folder_that_is_there_already_keeps_its_mode_and_may_not_be_writable_by_others() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("a/b");
    create_missing_dir(&folder).unwrap();
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o7777, 0o700);

    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    create_missing_dir(&folder).unwrap();
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o7777, 0o755);

    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let error = create_missing_dir(&folder).unwrap_err();
    assert!(matches!(error, PrivateFileError::Exposed { .. }), "{error}");
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o7777, 0o1777);
}

#[test]
fn folder_is_made_with_its_parents_and_closed() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b");
    create_dir(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&root.path().join("a")), 0o700);
    create_dir(&path).unwrap();
}

#[test]
fn readable_folder_is_closed_and_a_writable_one_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    std::fs::create_dir(&path).unwrap();
    set_mode(&path, 0o755);
    create_dir(&path).unwrap();
    assert_eq!(mode(&path), 0o700);

    set_mode(&path, 0o770);
    let error = create_dir(&path).unwrap_err();
    assert!(matches!(error, PrivateFileError::Exposed { .. }), "{error}");
    assert!(error.hint().unwrap().contains("chmod 700"), "{:?}", error.hint());
    assert_eq!(mode(&path), 0o770, "a refused folder is left as it was");
}

#[test]
fn symlink_and_file_are_no_folders() {
    let root = tempfile::tempdir().unwrap();
    let real = root.path().join("real");
    std::fs::create_dir(&real).unwrap();
    symlink(&real, root.path().join("link")).unwrap();
    let error = create_dir(&root.path().join("link")).unwrap_err();
    assert!(
        matches!(
            error,
            PrivateFileError::WrongKind {
                found: "a symlink",
                ..
            }
        ),
        "{error}"
    );

    std::fs::write(root.path().join("file"), b"").unwrap();
    let error = create_dir(&root.path().join("file")).unwrap_err();
    assert!(matches!(error, PrivateFileError::WrongKind { .. }), "{error}");
}

#[test]
fn folder_of_somebody_else_is_refused() {
    if !is_root() {
        eprintln!("SKIPPED: a folder of somebody else: only root can give one away");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    std::fs::create_dir(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    let error = create_dir(&path).unwrap_err();
    assert!(
        matches!(error, PrivateFileError::ForeignOwner { owner: 65534, .. }),
        "{error}"
    );
}

#[test]
fn file_is_written_whole_and_read_back() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("device.json");
    write(&path, b"first").unwrap();
    write(&path, b"second, and longer").unwrap();
    assert_eq!(read(&path, 64).unwrap(), b"second, and longer");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names(root.path()), ["device.json"], "no temporary file is left");
}

#[test]
fn write_replaces_a_symlink_and_not_what_it_points_to() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("target");
    std::fs::write(&target, b"untouched").unwrap();
    let path = root.path().join("link");
    symlink(&target, &path).unwrap();
    write(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"untouched");
    assert!(!path.symlink_metadata().unwrap().is_symlink());
}

#[test]
fn failed_write_keeps_the_old_contents_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    // A folder in the file's place makes the rename fail, after the temporary file was written.
    let path = root.path().join("device.json");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("inside"), b"kept").unwrap();
    let error = write(&path, b"new").unwrap_err();
    assert_eq!(error.path(), path);
    assert_eq!(names(root.path()), ["device.json"]);
}

#[test]
fn full_disk_is_told_apart() {
    // Every write to this device fails with ENOSPC.
    let full = Path::new("/dev/full");
    if !full.exists() {
        eprintln!("SKIPPED: a full disk: there is no /dev/full here");
        return;
    }
    let mut file = std::fs::OpenOptions::new().write(true).open(full).unwrap();
    let error = PrivateFileError::new("write", full, file.write_all(b"x").unwrap_err());
    assert!(matches!(error, PrivateFileError::DiskFull { .. }), "{error:?}");
    assert_eq!(error.to_string(), "cannot write /dev/full: the disk is full");
    assert!(error.hint().unwrap().contains("free some space"));
}

#[test]
fn missing_folder_and_missing_file_say_so() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("gone/file");
    assert!(write(&path, b"x").unwrap_err().is_not_found());
    assert!(read(&path, 1).unwrap_err().is_not_found());
}

#[test]
fn read_refuses_what_others_may_read() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("psk");
    std::fs::write(&path, b"secret").unwrap();
    for open in [0o644, 0o640, 0o604, 0o620] {
        set_mode(&path, open);
        let error = read(&path, 64).unwrap_err();
        assert!(
            matches!(error, PrivateFileError::Exposed { .. }),
            "{open:o}: {error}"
        );
        assert!(
            error
                .hint()
                .unwrap()
                .contains(&format!("chmod 600 {}", path.display()))
        );
    }
    set_mode(&path, 0o400);
    assert_eq!(read(&path, 64).unwrap(), b"secret");
}

#[test]
fn read_refuses_symlinks_and_folders_and_what_is_too_large() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("key");
    write(&path, &[7; 65]).unwrap();
    assert!(matches!(
        read(&path, 64),
        Err(PrivateFileError::TooLarge { max_bytes: 64, .. })
    ));
    assert_eq!(read(&path, 65).unwrap().len(), 65);

    symlink(&path, root.path().join("link")).unwrap();
    let error = read(&root.path().join("link"), 65).unwrap_err();
    assert!(matches!(error, PrivateFileError::WrongKind { .. }), "{error}");
    let error = read(root.path(), 65).unwrap_err();
    assert!(matches!(error, PrivateFileError::WrongKind { .. }), "{error}");
}

#[test]
fn appending_makes_the_file_and_refuses_an_open_one() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("slot-1.log");
    open_append(&path).unwrap().write_all(b"one\n").unwrap();
    open_append(&path).unwrap().write_all(b"two\n").unwrap();
    assert_eq!(read(&path, 64).unwrap(), b"one\ntwo\n");
    set_mode(&path, 0o644);
    assert!(matches!(
        open_append(&path),
        Err(PrivateFileError::Exposed { .. })
    ));
    symlink(&path, root.path().join("link")).unwrap();
    let error = open_append(&root.path().join("link")).unwrap_err();
    assert!(matches!(error, PrivateFileError::WrongKind { .. }), "{error}");
}

#[test]
fn leftovers_of_a_killed_write_are_removed() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("kept"), b"x").unwrap();
    std::fs::write(root.path().join(".kept.0123456789abcdef.tmp"), b"half").unwrap();
    assert_eq!(remove_leftovers(root.path()).unwrap(), 1);
    assert_eq!(names(root.path()), ["kept"]);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_new_file_replaces_nothing_and_goes_away_unless_it_is_filled() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("alice.conf");
    let empty = create_new(&path).unwrap();
    assert_eq!((mode(&path), path.metadata().unwrap().len()), (0o600, 0));
    drop(empty);
    assert!(!path.exists());

    create_new(&path).unwrap().fill(b"first").unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(std::fs::read(&path).unwrap(), b"first");
    let error = create_new(&path).unwrap_err();
    assert!(matches!(error, PrivateFileError::Exists { .. }), "{error}");
    assert!(error.hint().unwrap().contains("another name"));
    assert_eq!(std::fs::read(&path).unwrap(), b"first");
}

#[test]
fn a_folder_is_told_from_its_copy_and_known_where_it_was_moved() {
    let temp = tempfile::tempdir().unwrap();
    let [one, copy, moved] = ["one", "copy", "moved"].map(|name| temp.path().join(name));
    create_dir(&one).unwrap();
    create_dir(&copy).unwrap();
    let id = folder_id(&one).unwrap();
    assert_ne!(id, folder_id(&copy).unwrap());
    assert_eq!(id, folder_id(&temp.path().join("copy/../one")).unwrap());
    assert!(folder_id(&moved).unwrap_err().is_not_found());
    if cfg!(unix) {
        std::fs::rename(&one, &moved).unwrap();
        assert_eq!(id, folder_id(&moved).unwrap());
    }
}
