use super::*;

fn resolve(flags: &PlaceArgs, variables: &[(&str, &str)]) -> Result<Config, Failure> {
    within(variables, |environment| Config::resolve(flags, environment))
}

fn within<T>(variables: &[(&str, &str)], work: impl FnOnce(&Environment<'_>) -> T) -> T {
    let variables: Vec<(String, OsString)> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    let lookup = move |name: &str| {
        variables
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    let environment = Environment {
        os: orfe_platform::paths::Os::Linux,
        uid: 1000,
        var: &lookup,
    };
    work(&environment)
}

const HOME: (&str, &str) = ("HOME", "/nonexistent/home");

#[test]
fn flags_win_over_variables_and_these_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(
        &file,
        "state = \"/from/file\"\n[provisioner]\ncoder = \"/opt/coder\"\n",
    )
    .unwrap();
    let flags = PlaceArgs {
        config: Some(file),
        ..PlaceArgs::default()
    };
    let origin = |config: Config| (config.state.value.display().to_string(), config.state.origin);

    assert_eq!(
        origin(resolve(&flags, &[HOME]).unwrap()),
        ("/from/file".into(), Origin::File)
    );
    let environment = [HOME, ("ORFE_STATE", "/from/env")];
    assert_eq!(
        origin(resolve(&flags, &environment).unwrap()),
        ("/from/env".into(), Origin::Environment)
    );
    let flags = PlaceArgs {
        state: Some("/from/flag".into()),
        ..flags
    };
    let config = resolve(&flags, &environment).unwrap();
    assert_eq!(config.coder.value, PathBuf::from("/opt/coder"));
    assert_eq!(origin(config), ("/from/flag".into(), Origin::Flag));
}

#[test]
fn defaults_are_the_users_own_places() {
    let config = resolve(&PlaceArgs::default(), &[HOME]).unwrap();
    assert_eq!(
        config.state.value,
        PathBuf::from("/nonexistent/home/.local/state/orfe")
    );
    assert!(
        config
            .rows()
            .iter()
            .all(|(_, _, origin)| *origin == Origin::Default)
    );
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let error = resolve(
        &PlaceArgs {
            config: Some("/nonexistent/a.toml".into()),
            ..PlaceArgs::default()
        },
        &[HOME],
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "cannot read the config file /nonexistent/a.toml"
    );
}

#[test]
fn folders_of_children_are_named_from_the_root_on() {
    let flags = PlaceArgs {
        state: Some("a/state".into()),
        ..PlaceArgs::default()
    };
    let here = std::env::current_dir().unwrap();
    let config = resolve(&flags, &[HOME, ("ORFE_CODER_BIN", "../bin/coder")]).unwrap();
    assert_eq!(config.state.value, here.join("a/state"));
    assert_eq!(config.coder.value, here.join("../bin/coder"));
    let config = resolve(&flags, &[HOME, ("ORFE_CODER_BIN", "coder-2")]).unwrap();
    assert_eq!(config.coder.value, PathBuf::from("coder-2"));
}

#[test]
fn relative_paths_in_the_file_count_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let flags = PlaceArgs {
        config: Some(file.clone()),
        ..PlaceArgs::default()
    };
    let text = "state = \"state\"\ncontrol = \"run/agent.sock\"\n[provisioner]\ncoder = \"./coder\"\n";
    std::fs::write(&file, text).unwrap();
    let config = resolve(&flags, &[HOME]).unwrap();
    assert_eq!(config.state.value, folder.path().join("state"));
    assert_eq!(config.control.value, folder.path().join("run/agent.sock"));
    assert_eq!(config.coder.value, folder.path().join("coder"));
    let socket = within(&[HOME], |environment| {
        Config::control_socket_in(&flags, environment)
    });
    assert_eq!(
        socket.unwrap(),
        config.control.value,
        "whoever asks finds it there"
    );

    // A bare name is a program on the PATH, and a path from the root on is what it is.
    let text = "state = \"/a/state\"\n[provisioner]\ncoder = \"coder-2\"\n";
    std::fs::write(&file, text).unwrap();
    let config = resolve(&flags, &[HOME]).unwrap();
    assert_eq!(config.state.value, PathBuf::from("/a/state"));
    assert_eq!(config.coder.value, PathBuf::from("coder-2"));
}

#[test]
fn who_names_every_place_needs_no_home() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "").unwrap();
    let flags = PlaceArgs {
        config: Some(file),
        state: Some("/a/state".into()),
        control: Some("/a/socket".into()),
    };
    assert_eq!(
        resolve(&flags, &[]).unwrap().state.value,
        PathBuf::from("/a/state")
    );

    let flags = PlaceArgs {
        control: None,
        ..flags
    };
    assert_eq!(
        resolve(&flags, &[]).unwrap().control.value,
        PathBuf::from("/tmp/orfe-1000/agent.sock"),
        "where the socket is does not hang on HOME"
    );

    let flags = PlaceArgs { state: None, ..flags };
    let text = crate::failure::render(&resolve(&flags, &[]).unwrap_err().into());
    assert!(
        text.starts_with("error: cannot tell where Orfe's files are\n"),
        "{text}"
    );
    assert!(
        text.contains("where the state folder is: the environment variable HOME"),
        "{text}"
    );
}

#[test]
fn who_names_the_socket_needs_no_config_file() {
    let flags = PlaceArgs {
        config: Some("/nonexistent/a.toml".into()),
        ..PlaceArgs::default()
    };
    let socket = |variables: &[(&str, &str)]| {
        within(variables, |environment| {
            Config::control_socket_in(&flags, environment)
        })
    };
    assert!(socket(&[HOME]).is_err());
    assert_eq!(
        socket(&[("ORFE_CONTROL", "/a/socket")]).unwrap(),
        PathBuf::from("/a/socket")
    );
}

#[test]
fn a_socket_path_that_no_socket_can_have_is_refused() {
    let long = format!("/tmp/{}", "x".repeat(120));
    let error = resolve(
        &PlaceArgs {
            control: Some(long.into()),
            ..PlaceArgs::default()
        },
        &[HOME],
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "cannot use the control socket");
}

#[test]
fn who_asks_the_daemon_is_told_of_a_socket_path_that_is_too_long() {
    let long = format!("/tmp/{}", "x".repeat(120));
    let flags = PlaceArgs {
        control: Some(long.clone().into()),
        ..PlaceArgs::default()
    };
    let complaint = |flags: &PlaceArgs, variables: &[(&str, &str)]| {
        let error = within(variables, |environment| {
            Config::control_socket_in(flags, environment)
        });
        let error = error.unwrap_err().into();
        assert_eq!(crate::failure::exit(&error), Exit::Usage);
        crate::failure::render(&error)
    };
    insta::assert_snapshot!(complaint(&flags, &[HOME]));
    let text = complaint(&PlaceArgs::default(), &[("ORFE_CONTROL", &long)]);
    assert!(
        text.contains("hint: put a shorter path into ORFE_CONTROL"),
        "{text}"
    );
}

#[test]
fn an_odd_log_format_names_the_choices() {
    let error = resolve(&PlaceArgs::default(), &[HOME, ("ORFE_LOG_FORMAT", "xml")]).unwrap_err();
    assert!(crate::failure::render(&error.into()).contains("`human` and `json`"));
}

#[test]
fn the_tcp_stack_is_one_of_three() {
    let config = resolve(&PlaceArgs::default(), &[HOME, ("ORFE_TCP_STACK", "namespace")]).unwrap();
    assert_eq!(
        (config.tcp_stack.value, config.tcp_stack.origin),
        (TcpStack::Namespace, Origin::Environment)
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "[tunnel]\ntcp_stack = \"gvisor\"\n").unwrap();
    let flags = PlaceArgs {
        config: Some(file),
        ..PlaceArgs::default()
    };
    let text = crate::failure::render(&resolve(&flags, &[HOME]).unwrap_err().into());
    assert!(
        text.contains("\"gvisor\"") && text.contains("or \"smoltcp\""),
        "{text}"
    );
}

#[test]
fn the_tunnels_mode_is_the_flags_the_variables_the_files_or_what_was_joined_with() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let identity = crate::state::Identity {
        version: 1,
        device: orfe_protocol::id::DeviceId::generate(),
        name: "box".parse().unwrap(),
        registry_url: "https://orfe.example.com".parse().unwrap(),
        registry_key: orfe_protocol::key::NoisePrivateKey::generate()
            .unwrap()
            .public_key(),
        spki_pin: None,
        tunnel: Some(TunnelMode::Tun),
    };
    let joined = crate::state::StateFolder::open(&state).unwrap();
    joined.store_identity(&identity).unwrap();
    let file = folder.path().join("agent.toml");
    let flags = PlaceArgs {
        config: Some(file.clone()),
        state: Some(state),
        ..PlaceArgs::default()
    };
    let chosen = |variables: &[(&str, &str)], flag| {
        let mut config = resolve(&flags, variables).unwrap();
        config.take_joined_choice();
        config.choose_tunnel(flag);
        (config.tunnel_mode.value, config.tunnel_mode.origin)
    };
    std::fs::write(&file, "").unwrap();
    assert_eq!(chosen(&[HOME], None), (TunnelMode::Tun, Origin::Join));
    std::fs::write(&file, "[tunnel]\nmode = \"off\"\n").unwrap();
    assert_eq!(chosen(&[HOME], None), (TunnelMode::Off, Origin::File));
    let variables = [HOME, ("ORFE_TUNNEL", "userspace")];
    assert_eq!(
        chosen(&variables, None),
        (TunnelMode::Userspace, Origin::Environment)
    );
    assert_eq!(
        chosen(&variables, Some(TunnelMode::Off)),
        (TunnelMode::Off, Origin::Flag)
    );
    let error = resolve(&flags, &[HOME, ("ORFE_TUNNEL", "tap")]).unwrap_err();
    let text = crate::failure::render(&error.into());
    assert!(text.contains("`tap`") && text.contains("`userspace`"), "{text}");
}

#[test]
fn bridges_are_a_word_or_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let flags = PlaceArgs {
        config: Some(file.clone()),
        ..PlaceArgs::default()
    };
    let bridges = |value: &str| {
        std::fs::write(&file, format!("[tunnel]\nbridges = {value}\n")).unwrap();
        resolve(&flags, &[HOME]).map(|config| config.bridges.value)
    };
    assert_eq!(bridges("\"auto\"").unwrap(), Bridges::Auto);
    assert_eq!(bridges("\"off\"").unwrap(), Bridges::Off);
    let named = Bridges::Named(vec!["docker0".to_owned()]);
    assert_eq!(bridges("[\"docker0\"]").unwrap(), named);
    for wrong in ["\"docker0\"", "[\"a b\"]", "[\"\\\"; drop\"]"] {
        let text = crate::failure::render(&bridges(wrong).unwrap_err().into());
        assert!(text.contains("tunnel.bridges"), "{wrong}: {text}");
    }
}

#[test]
fn a_drain_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "[provisioner]\ndrain_timeout_s = 9223372036854775807\n").unwrap();
    let flags = PlaceArgs {
        config: Some(file),
        ..PlaceArgs::default()
    };
    let text = crate::failure::render(&resolve(&flags, &[HOME]).unwrap_err().into());
    assert!(text.contains("too long") && text.contains("86400"), "{text}");
}

#[test]
fn a_log_filter_that_cannot_work_is_found_before_anything_starts() {
    for filter in ["==", "infoo"] {
        let error = resolve(&PlaceArgs::default(), &[HOME, ("ORFE_LOG", filter)]).unwrap_err();
        assert_eq!(error.to_string(), format!("the variable ORFE_LOG is `{filter}`"));
    }
}
