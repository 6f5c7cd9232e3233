use super::*;

#[test]
fn linux_system() {
    let places = places(Scope::System, Os::Linux, &[]).unwrap();
    assert_eq!(places.config_file, Path::new("/etc/orfe/agent.toml"));
    assert_eq!(places.state_dir, Path::new("/var/lib/orfe"));
    assert_eq!(places.control_socket, Path::new("/run/orfe/agent.sock"));
}

#[test]
fn linux_user_with_and_without_xdg() {
    let variables = [
        ("HOME", "/home/ada"),
        ("XDG_CONFIG_HOME", "/c"),
        ("XDG_STATE_HOME", "/s"),
        ("XDG_RUNTIME_DIR", "/run/user/7"),
    ];
    let with = places(Scope::User, Os::Linux, &variables).unwrap();
    assert_eq!(with.config_file, Path::new("/c/orfe/agent.toml"));
    assert_eq!(with.state_dir, Path::new("/s/orfe"));
    assert_eq!(with.control_socket, Path::new("/run/user/7/orfe/agent.sock"));

    let without = places(Scope::User, Os::Linux, &variables[..1]).unwrap();
    assert_eq!(
        without.config_file,
        Path::new("/home/ada/.config/orfe/agent.toml")
    );
    assert_eq!(without.state_dir, Path::new("/home/ada/.local/state/orfe"));
    assert_eq!(without.control_socket, Path::new("/tmp/orfe-7/agent.sock"));
}

#[test]
fn relative_xdg_folder_is_ignored() {
    let variables = [
        ("HOME", "/home/ada"),
        ("XDG_STATE_HOME", "state"),
        ("XDG_RUNTIME_DIR", ""),
    ];
    let places = places(Scope::User, Os::Linux, &variables).unwrap();
    assert_eq!(places.state_dir, Path::new("/home/ada/.local/state/orfe"));
    assert_eq!(places.control_socket, Path::new("/tmp/orfe-7/agent.sock"));
}

#[test]
fn no_home_is_an_error_that_names_it() {
    let error = places(Scope::User, Os::Linux, &[]).unwrap_err();
    assert_eq!(
        error,
        PathError::NoVariable {
            what: "configuration",
            variable: "HOME"
        }
    );
    assert!(error.hint().contains("HOME"));
}

#[test]
fn each_place_is_told_without_what_the_others_need() {
    let nothing = |_: &str| None;
    let environment = |os| Environment {
        os,
        uid: 7,
        var: &nothing,
    };
    for os in [Os::Linux, Os::MacOs] {
        let environment = environment(os);
        let places = Places::of(Scope::User, &environment);
        assert_eq!(
            places.control_socket().unwrap(),
            Path::new("/tmp/orfe-7/agent.sock")
        );
        let state = places.state_dir().unwrap_err().to_string();
        assert!(
            state.contains("where the state folder is") && state.contains("HOME"),
            "{state}"
        );
    }
    let environment = environment(Os::Windows);
    let pipe = Places::of(Scope::User, &environment)
        .control_socket()
        .unwrap_err();
    assert!(pipe.to_string().contains("USERNAME"), "{pipe}");
}

#[test]
fn macos_and_windows() {
    let mac = places(Scope::System, Os::MacOs, &[]).unwrap();
    assert_eq!(
        mac.state_dir,
        Path::new("/Library/Application Support/Orfe/State")
    );
    assert_eq!(mac.control_socket, Path::new("/var/run/orfe/agent.sock"));
    let mac = places(Scope::User, Os::MacOs, &[("HOME", "/Users/ada")]).unwrap();
    assert_eq!(
        mac.config_file,
        Path::new("/Users/ada/Library/Application Support/Orfe/agent.toml")
    );

    let variables = [
        ("ProgramData", r"C:\ProgramData"),
        ("LOCALAPPDATA", r"C:\U\AppData\Local"),
        ("USERNAME", "ada"),
    ];
    let windows = places(Scope::System, Os::Windows, &variables).unwrap();
    assert_eq!(windows.config_file, Path::new(r"C:\ProgramData\Orfe\agent.toml"));
    assert_eq!(windows.state_dir, Path::new(r"C:\ProgramData\Orfe\State"));
    assert_eq!(windows.control_socket, Path::new(r"\\.\pipe\orfe"));
    let windows = places(Scope::User, Os::Windows, &variables).unwrap();
    assert_eq!(windows.state_dir, Path::new(r"C:\U\AppData\Local\Orfe\State"));
    assert_eq!(windows.control_socket, Path::new(r"\\.\pipe\orfe-ada"));
}

#[test]
fn long_socket_path_is_refused_with_its_length() {
    let runtime = format!("/{}", "r".repeat(90));
    let variables = [("HOME", "/home/ada"), ("XDG_RUNTIME_DIR", runtime.as_str())];
    let error = places(Scope::User, Os::Linux, &variables).unwrap_err();
    assert!(
        matches!(error, PathError::SocketPathTooLong { length: 107, .. }),
        "{error}"
    );
    check_socket_path(Path::new(&"p".repeat(100))).unwrap();
    assert!(check_socket_path(Path::new(&"p".repeat(101))).is_err());
}

#[test]
fn root_means_the_system() {
    let lookup = |_: &str| None;
    let environment = |os, uid| Environment {
        os,
        uid,
        var: &lookup,
    };
    assert_eq!(environment(Os::Linux, 0).default_scope(), Scope::System);
    assert_eq!(environment(Os::MacOs, 501).default_scope(), Scope::User);
    assert_eq!(environment(Os::Windows, 0).default_scope(), Scope::User);
}

#[derive(Debug)]
struct Told {
    config_file: PathBuf,
    state_dir: PathBuf,
    control_socket: PathBuf,
}

fn places(scope: Scope, os: Os, variables: &[(&str, &str)]) -> Result<Told, PathError> {
    let lookup = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| OsString::from(value))
    };
    let environment = Environment {
        os,
        uid: 7,
        var: &lookup,
    };
    let places = Places::of(scope, &environment);
    Ok(Told {
        config_file: places.config_file()?,
        state_dir: places.state_dir()?,
        control_socket: places.control_socket()?,
    })
}
