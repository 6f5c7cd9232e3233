use super::*;

fn folder() -> (tempfile::TempDir, StateFolder) {
    let temp = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(&temp.path().join("state")).unwrap();
    (temp, folder)
}

fn identity() -> Identity {
    Identity {
        version: 1,
        device: DeviceId::generate(),
        name: "box".parse().unwrap(),
        registry_url: "https://orfe.example.com:7443".parse().unwrap(),
        registry_key: NoisePrivateKey::generate().unwrap().public_key(),
        spki_pin: Some(SpkiPin([3; 32])),
        tunnel: Some(TunnelMode::Tun),
    }
}

#[test]
fn keys_are_made_once_and_kept() {
    let (_temp, folder) = folder();
    let noise = folder.noise_key().unwrap().public_key();
    let wireguard = folder.wireguard_key().unwrap().public_key();
    assert_eq!(folder.noise_key().unwrap().public_key(), noise);
    assert_eq!(folder.wireguard_key().unwrap().public_key(), wireguard);
}

#[test]
fn an_enrolled_device_gets_no_new_keys() {
    let (_temp, folder) = folder();
    folder.noise_key().unwrap();
    folder.store_identity(&identity()).unwrap();

    fs_err::remove_file(folder.path().join("noise.key")).unwrap();
    let error = folder.noise_key().unwrap_err();
    assert!(error.to_string().contains("noise.key is gone"), "{error}");
    assert!(!folder.path().join("noise.key").exists());
    let error = folder.wireguard_key().unwrap_err();
    assert!(error.to_string().contains("wireguard.key is gone"), "{error}");
}

#[test]
fn an_identity_survives_its_file() {
    let (_temp, folder) = folder();
    assert_eq!(folder.identity().unwrap(), None);
    let identity = identity();
    folder.store_identity(&identity).unwrap();
    assert_eq!(folder.identity().unwrap(), Some(identity));
    assert_eq!(joined_tunnel_mode(folder.path()), Some(TunnelMode::Tun));
    assert_eq!(joined_tunnel_mode(Path::new("/nonexistent")), None);
}

#[test]
fn a_second_process_is_told_who_is_there() {
    let (_temp, folder) = folder();
    let error = StateFolder::open(folder.path()).unwrap_err();
    let text = crate::failure::render(&error.into());
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(text.contains("with `--state`"), "{text}");
}

#[test]
fn who_begins_nothing_new_makes_no_folder() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    assert!(StateFolder::open_existing(&path).unwrap().is_none());
    assert!(!path.exists());
    drop(StateFolder::open(&path).unwrap());
    assert!(StateFolder::open_existing(&path).unwrap().is_some());
}

#[test]
fn what_can_be_had_again_is_set_aside_when_it_is_spoilt() {
    let (_temp, folder) = folder();
    for name in ["desired.json", "children.json", "proxy-0.json"] {
        private::write(&folder.path().join(name), b"{\"epoch\":1,").unwrap();
    }
    assert_eq!(folder.desired().unwrap(), None);
    assert_eq!(folder.children().unwrap(), []);
    assert_eq!(folder.proxy_seat(0).unwrap(), None);
    assert!(folder.path().join("desired.json.spoilt").exists());
    assert!(folder.path().join("proxy-0.json.spoilt").exists());
    assert_eq!(
        folder.proxy_seat(0).unwrap(),
        None,
        "it is set aside and said once"
    );
    assert!(!folder.path().join("children.json").exists());
    let endless = vec![b' '; usize::try_from(FILE_MAX).unwrap() + 1];
    private::write(&folder.path().join("desired.json"), &endless).unwrap();
    assert_eq!(folder.desired().unwrap(), None);
    folder.forget_desired().unwrap();
    assert!(
        !folder.path().join("desired.json.spoilt").exists(),
        "it may hold a credential"
    );
}

#[test]
fn a_spoilt_identity_is_named() {
    let (_temp, folder) = folder();
    private::write(&folder.path().join("identity.json"), b"{").unwrap();
    let text = crate::failure::render(&folder.identity().unwrap_err().into());
    assert!(
        text.contains("identity.json") && text.contains("because:"),
        "{text}"
    );
}

#[test]
fn a_copy_of_the_folder_has_no_children_of_the_original() {
    let (temp, folder) = folder();
    let id = ProcessId {
        pid: 7,
        start_time: 8,
    };
    let child = folder.running_child(0, id, "boot".to_owned()).unwrap();
    folder.store_children(std::slice::from_ref(&child)).unwrap();
    assert_eq!(folder.children().unwrap(), std::slice::from_ref(&child));

    let copy = StateFolder::open(&temp.path().join("copy")).unwrap();
    std::fs::copy(
        folder.path().join("children.json"),
        copy.path().join("children.json"),
    )
    .unwrap();
    assert_eq!(copy.children().unwrap(), []);

    // What an older version wrote does not say.
    let unknown = RunningChild {
        folder: None,
        ..child
    };
    copy.store_children(std::slice::from_ref(&unknown)).unwrap();
    assert_eq!(copy.children().unwrap(), [unknown]);
}
