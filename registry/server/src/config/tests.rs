use std::os::unix::fs::PermissionsExt as _;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("psk", "s3cret\n", 0o600);
        folder
    }

    fn write(&self, name: &str, contents: &str, mode: u32) {
        let path = self.0.path().join(name);
        std::fs::write(&path, contents).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn resolve(&self, toml: &str) -> Result<Config, ConfigError> {
        self.resolve_with(toml, Overrides::default())
    }

    fn resolve_with(&self, toml: &str, overrides: Overrides) -> Result<Config, ConfigError> {
        self.write("registry.toml", toml, 0o644);
        Config::resolve(
            Some(&self.0.path().join("registry.toml")),
            overrides,
            Some("/default".into()),
        )
    }

    /// The error and its hint, without the folder's random name.
    fn refused(&self, toml: &str) -> String {
        let error = self.resolve(toml).unwrap_err();
        let shown = format!("{error}\nhint: {}", error.hint().unwrap_or_default());
        shown.replace(&self.0.path().display().to_string(), "FOLDER")
    }
}

const WHOLE: &str = r#"
data = "state"
listen = "0.0.0.0:7443"
public_url = "https://orfe.example.com:7443"
wireguard = "0.0.0.0:51820"
wireguard_endpoint = "orfe.example.com:51820"
dashboard = "127.0.0.1:7480"
docker_required = true

[coder]
url = "https://coder.internal"
psk_file = "psk"
slots = 2

[tunnel]
enabled = true
websocket = false
also_listen = ["0.0.0.0:443"]
also_endpoints = ["lb.example.com:443"]
threads = 3
tcp_stack = "smoltcp"

[[policy.allow]]
name = "coder.internal"
ports = [443]
upstream = "127.0.0.1:36123"

[session]
heartbeat = "500ms"
"#;

#[test]
fn a_whole_file_is_read() {
    let folder = Folder::new();
    let config = folder.resolve(WHOLE).unwrap();
    assert_eq!(config.data, folder.0.path().join("state"));
    assert!(!config.tunnel_websocket);
    assert_eq!(config.wireguard_also, ["0.0.0.0:443".parse().unwrap()]);
    assert_eq!(
        config.also_endpoints.as_deref(),
        Some(&["lb.example.com:443".parse().unwrap()][..])
    );
    assert_eq!(config.gateway_threads.map(NonZeroU8::get), Some(3));
    assert_eq!(config.gateway_tcp_stack, TcpStack::Smoltcp);
    assert_eq!(
        config.coder.as_ref().unwrap().credential.secret().expose(),
        "s3cret"
    );
    assert_eq!(
        (config.slots, config.docker_required, config.tunnel),
        (2, true, true)
    );
    assert_eq!(
        config.policy[0].upstream.as_ref().unwrap().to_string(),
        "127.0.0.1:36123"
    );
    assert_eq!(config.session.heartbeat, Duration::from_millis(500));
    assert_eq!(config.session.hold_down, Duration::from_secs(45));
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn without_a_file_there_are_defaults() {
    let config = Config::resolve(None, Overrides::default(), Some("/default".into())).unwrap();
    assert_eq!(config.data, Path::new("/default"));
    assert_eq!(config.listen.to_string(), "0.0.0.0:7443");
    assert_eq!(config.wireguard.to_string(), "0.0.0.0:51820");
    assert_eq!(config.dashboard.to_string(), "127.0.0.1:7480");
    assert!(config.tunnel && config.coder.is_none());
    assert_eq!(config.gateway_tcp_stack, TcpStack::Auto);
    assert_eq!(config.warnings().len(), 2);
}

#[test]
fn a_flag_wins_over_the_file() {
    let folder = Folder::new();
    let overrides = Overrides {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        data: Some("/flag".into()),
        ..Overrides::default()
    };
    let config = folder.resolve_with(WHOLE, overrides).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.data, Path::new("/flag"));
    assert_eq!(config.wireguard.to_string(), "0.0.0.0:51820");
}

#[test]
fn what_is_broken_is_named_with_its_place() {
    let folder = Folder::new();
    insta::assert_snapshot!(folder.refused("listen = \"0.0.0.0:7443\"\nlistne = 3\n"), @r"
    FOLDER/registry.toml:2:1: unknown field `listne`, expected one of `data`, `listen`, `public_url`, `wireguard`, `wireguard_endpoint`, `dashboard`, `docker_required`, `tls`, `coder`, `tunnel`, `policy`, `dns`, `session`
    hint: `orfe-registry config check --help` shows a whole example
    ");
    insta::assert_snapshot!(folder.refused("[coder]\nurl = \"https://c\nslots = 1\n"), @r#"
    FOLDER/registry.toml:2:17: invalid basic string, expected `"`
    hint: `orfe-registry config check --help` shows a whole example
    "#);
    insta::assert_snapshot!(folder.refused("[[policy.allow]]\nname = \"not a name\"\nports = [443]\n"), @r"
    FOLDER/registry.toml:2:8: `not a name` is not a host name: labels of letters, digits and `-`, separated by dots, 253 characters at most
    hint: `orfe-registry config check --help` shows a whole example
    ");
    insta::assert_snapshot!(folder.refused("[session]\nheartbeat = \"soon\"\n"), @r"
    FOLDER/registry.toml:2:13: `soon` is not a length of time: a whole number and ms, s, m, h or d, such as 15s
    hint: `orfe-registry config check --help` shows a whole example
    ");
    insta::assert_snapshot!(folder.refused("[[policy.allow]]\nname = \"a.b\"\nports = [443]\nupstream = \"x\"\n"), @r"
    FOLDER/registry.toml:4:12: `x` is not of the form host:port
    hint: `orfe-registry config check --help` shows a whole example
    ");
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_opened() {
    let folder = Folder::new();
    folder.write("open-psk", "s3cret", 0o644);
    folder.write("empty", "\n", 0o600);
    let coder = |line: &str| format!("[coder]\nurl = \"https://coder.internal\"\n{line}\n");
    let policy = "[[policy.allow]]\nname = \"a.b\"\nports = [1]\n";
    let dns = "[[policy.allow]]\nname = \"a.b\"\nudp_ports = [53]\n";
    let refused = [
        coder("psk_file = \"missing\""),
        coder("psk_file = \"open-psk\""),
        coder("psk_file = \"empty\""),
        coder("psk_file = \"psk\"\nslots = 65"),
        coder("psk_file = \"psk\"\nca_file = \"psk\""),
        coder("psk_file = \"psk\"\nca_file = \"missing\""),
        "[coder]\nurl = \"ftp://coder\"\npsk_file = \"psk\"".to_owned(),
        "dashboard = \"0.0.0.0:7480\"".to_owned(),
        "public_url = \"http://orfe.example.com\"".to_owned(),
        "[[policy.allow]]\nname = \"a.b\"\nports = []\n".to_owned(),
        format!("{policy}{policy}"),
        format!("{dns}{}", dns.replace("[53]", "[\"50-60\"]")),
        "wireguard = \"0.0.0.0:443\"\n[tunnel]\nalso_listen = [\"0.0.0.0:443\"]\n".to_owned(),
        "[tunnel]\nalso_listen = [\"[::]:1\", \"[::]:2\", \"[::]:3\", \"[::]:4\", \"[::]:5\"]\n".to_owned(),
    ]
    .map(|toml| folder.refused(&toml))
    .join("\n\n");
    insta::assert_snapshot!(refused, @r"
    cannot open FOLDER/missing: there is no such file or folder
    hint: make it, or mend the path in the configuration; it is relative to that file's folder

    FOLDER/open-psk is open to other users (mode 0644)
    hint: run `chmod 600 FOLDER/open-psk`, and replace what others may have read

    FOLDER/empty holds no PSK
    hint: put the value of CODER_PROVISIONER_DAEMON_PSK there, on one line

    65 slots; a device runs 1 to 64 provisioners
    hint: set `slots` in [coder]

    FOLDER/psk holds no certificate in PEM
    hint: a certificate in PEM begins with `-----BEGIN CERTIFICATE-----`

    a file that the configuration names could not be read
    hint: make it, or mend the path in the configuration; it is relative to that file's folder

    FOLDER/registry.toml:2:7: the URL of Coder begins with `https://` or `http://`, and names a host
    hint: it is of the form https://coder.example.com

    the dashboard may listen on loopback only, not on 0.0.0.0:7480
    hint: use 127.0.0.1 and reach it through an SSH tunnel: ssh -L 7480:127.0.0.1:7480 HOST

    `http://orfe.example.com/` is no public URL of a registry
    hint: it is of the form https://host[:port], at most 200 characters, without a path

    FOLDER/registry.toml:1:1: policy entry `a.b` needs ports from 1 to 65535
    hint: such as ports = [443] or udp_ports = [53]

    the policy names port 1 of `a.b` twice
    hint: entries of one name have different ports

    the policy names port 53 of `a.b` twice
    hint: entries of one name have different ports

    the gateway is to listen on UDP 0.0.0.0:443 twice
    hint: name it in `wireguard` or in `also_listen` of [tunnel], and there once

    5 further UDP addresses of the gateway; there may be 4
    hint: shorten `also_listen` in [tunnel]; one at port 443 is what helps most
    ");
}

#[test]
fn what_is_of_a_wrong_type_is_said_in_plain_words() {
    let folder = Folder::new();
    let refused = [
        "coder = 3",
        "session = \"15s\"",
        "session = [\"15s\"]",
        "[[tunnel]]\nenabled = false\n",
        "[policy]\nallow = [[\"a.b\"]]\n",
        "listen = \"7443\"",
        "[[policy.allow]]\nname = \"a.b\"\nports = [70000]\n",
        "[[policy.allow]]\nname = \"a.b\"\nports = 443\n",
        "[policy.allow]\nname = \"a.b\"\nports = [443]\n",
        "[coder]\nurl = \"https://c.d\"\npsk_file = \"psk\"\nslots = 300\n",
        "[coder]\nurl = \"c.d\"\npsk_file = \"psk\"\n",
        "[coder]\nurl = \"https://c.d\"\npsk_file = 3\n",
    ]
    .map(|toml| folder.resolve(toml).unwrap_err().to_string())
    .join("\n");
    insta::assert_snapshot!(refused.replace(&folder.0.path().display().to_string(), "FOLDER"), @r#"
    FOLDER/registry.toml:1:9: invalid type: integer `3`, expected a table, which begins with the line `[coder]`
    FOLDER/registry.toml:1:11: invalid type: string "15s", expected a table, which begins with the line `[session]`
    FOLDER/registry.toml:1:11: invalid type: list, expected a table, which begins with the line `[session]`
    FOLDER/registry.toml:1:1: invalid type: list, expected a table, which begins with the line `[tunnel]`
    FOLDER/registry.toml:2:10: invalid type: list, expected a table, which begins with the line `[[policy.allow]]`
    FOLDER/registry.toml:1:10: this takes an IP address and a port, such as "0.0.0.0:7443"
    FOLDER/registry.toml:3:10: invalid value: integer `70000`, expected a port from 1 to 65535, or a range of them such as "8000-8010"
    FOLDER/registry.toml:3:9: invalid type: integer `443`: this is a list, such as `[443]` or the tables that begin with `[[policy.allow]]`
    FOLDER/registry.toml:1:1: invalid type: table: this is a list, such as `[443]` or the tables that begin with `[[policy.allow]]`
    FOLDER/registry.toml:4:9: invalid value: integer `300`: a number of slots is from 1 to 64
    FOLDER/registry.toml:2:7: a URL begins with `https://`: "c.d"
    FOLDER/registry.toml:3:12: invalid type: integer `3`: a path stands in quotes
    "#);
}

#[test]
fn values_that_cannot_work_are_named_with_their_place() {
    let folder = Folder::new();
    let coder = |url: &str| format!("[coder]\nurl = \"{url}\"\npsk_file = \"psk\"\n");
    let heartbeat = |span: &str| format!("\n[session]\nheartbeat = \"{span}\"\n");
    let refused = [
        coder("https://user:pw@coder.internal"),
        coder("https://:pw@coder.internal"),
        coder("https://coder.internal/?token=pw"),
        coder("https://coder.internal/#top"),
        heartbeat("0s"),
        heartbeat("99ms"),
        heartbeat("301s"),
        heartbeat("1d"),
    ]
    .map(|toml| folder.refused(&toml))
    .join("\n");
    assert!(!refused.contains("pw"), "{refused}");
    insta::assert_snapshot!(refused, @r#"
    FOLDER/registry.toml:2:7: the URL of Coder may not hold a user or a password
    hint: it is of the form https://coder.example.com
    FOLDER/registry.toml:2:7: the URL of Coder may not hold a user or a password
    hint: it is of the form https://coder.example.com
    FOLDER/registry.toml:2:7: the URL of Coder may not hold a query (`?…`)
    hint: it is of the form https://coder.example.com
    FOLDER/registry.toml:2:7: the URL of Coder may not hold a fragment (`#…`)
    hint: it is of the form https://coder.example.com
    FOLDER/registry.toml:3:13: "0s" is no interval of heartbeats: it is from 100ms to 5m
    hint: such as heartbeat = "15s"
    FOLDER/registry.toml:3:13: "99ms" is no interval of heartbeats: it is from 100ms to 5m
    hint: such as heartbeat = "15s"
    FOLDER/registry.toml:3:13: "301s" is no interval of heartbeats: it is from 100ms to 5m
    hint: such as heartbeat = "15s"
    FOLDER/registry.toml:3:13: "1d" is no interval of heartbeats: it is from 100ms to 5m
    hint: such as heartbeat = "15s"
    "#);
    for good in ["100ms", "5m"] {
        folder.resolve(&heartbeat(good)).unwrap();
    }
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let folder = Folder::new();
    let direct = WHOLE.replace("name = \"coder.internal\"", "name = \"other.internal\"");
    let port = WHOLE.replace("ports = [443]", "ports = [80]");
    let local = WHOLE.replace("coder.internal", "localhost");
    let warnings = [direct, port, local].map(|toml| folder.resolve(&toml).unwrap().warnings().join("\n"));
    insta::assert_snapshot!(warnings.join("\n"), @r"
    the policy does not name `coder.internal`: devices dial Coder directly
    the policy does not allow port 443 of `coder.internal`, which Coder's URL names
    Coder's URL names this machine's loopback (`localhost`), which Go programs dial past every proxy: devices would go around the tunnel
    ");
}

#[test]
fn hosts_and_ports_are_parsed() {
    for good in ["127.0.0.1:1", "[::1]:443", "coder.internal:443"] {
        assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
    }
    for bad in ["", "a", "a:0", "::1:443", "a b:1", ":1", "a:70000"] {
        assert!(bad.parse::<HostPort>().is_err(), "{bad}");
    }
}
