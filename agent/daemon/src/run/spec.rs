//! What a provisioner is started with: a pure function of its plan and its place.
//!
//! The environment is exactly this list and nothing of the daemon's own, because everything in it reaches terraform and so
//! template code (only `CODER_*` is taken out by the child). Secrets are in the environment, never in argv: there the same
//! user and root can read them, in argv everybody could.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use orfe_core::agent::ChildPlan;
use orfe_protocol::desired::Credential;
use orfe_supervisor::{EnvValue, Spec};
use secrecy::SecretString;

/// Variables of the daemon that are passed on when they are set: where Docker is, what terraform is told by the
/// machine's owner, which certificates the owner trusts.
const PASSED_ON: [&str; 8] = [
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "TF_CLI_CONFIG_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LANG",
    "TZ",
];

/// The folders of a slot.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    pub(super) root: PathBuf,
}

impl Folders {
    pub(super) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Also the marker by which the child's escaped processes are found: no other process has it as TMPDIR.
    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("provisioner.log")
    }

    pub(super) fn ca_bundle(&self) -> PathBuf {
        self.root.join("ca.pem")
    }
}

/// Everything that a spec is made of, besides the plan.
pub(super) struct Place<'a> {
    pub(super) program: PathBuf,
    pub(super) path: &'a OsStr,
    pub(super) folders: &'a Folders,
    /// URL of the slot's proxy, credential included.
    pub(super) proxy_url: SecretString,
    /// The proxy's credential alone, to be taken out of the child's output.
    pub(super) proxy_credential: SecretString,
    /// Certificates beside the system's, if there are any.
    pub(super) ca_bundle: Option<&'a Path>,
    /// Looks up a variable of the daemon.
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
}

/// The variable that marks the child's processes.
pub(super) const MARKER: &str = "TMPDIR";

pub(super) fn build(plan: &ChildPlan, place: Place<'_>) -> Spec {
    let mut env: Vec<(OsString, EnvValue)> = Vec::new();
    let mut set = |name: &str, value: EnvValue| env.push((name.into(), value));
    for name in PASSED_ON {
        if let Some(value) = (place.variable)(name) {
            set(name, value.into());
        }
    }
    if let Some(bundle) = place.ca_bundle {
        set("SSL_CERT_FILE", bundle.into());
    }
    set("PATH", place.path.into());
    set("HOME", place.folders.home().into());
    set(MARKER, place.folders.tmp().into());
    set("CODER_CACHE_DIRECTORY", place.folders.cache().into());
    set("CODER_URL", plan.coder.url.as_str().trim_end_matches('/').into());
    set("CODER_PROVISIONER_DAEMON_NAME", plan.name.as_str().into());
    let secret = |secret: &orfe_protocol::secret::Secret| EnvValue::Secret(secret.expose().to_owned().into());
    match &plan.coder.credential {
        Credential::Psk(psk) => set("CODER_PROVISIONER_DAEMON_PSK", secret(psk)),
        Credential::Key(key) => set("CODER_PROVISIONER_DAEMON_KEY", secret(key)),
    }
    if !plan.tags.is_empty() {
        set("CODER_PROVISIONERD_TAGS", plan.tags.to_string().into());
    }
    // Both spellings: Go reads either, other programs under terraform only one.
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        set(name, EnvValue::Secret(place.proxy_url.clone()));
    }
    Spec {
        slot: u32::from(plan.slot),
        program: place.program,
        // An empty `--log-human` switches that form off; `/dev/stderr` is known by name, on Windows too.
        args: ["provisionerd", "start", "--log-human=", "--log-json=/dev/stderr"]
            .map(OsString::from)
            .to_vec(),
        env,
        cwd: place.folders.home(),
        // The daemon keeps the log itself: what belongs to somebody's build is left out of it.
        log_file: None,
        marker: Some(MARKER.into()),
        secrets: vec![place.proxy_credential],
    }
}

#[cfg(test)]
mod tests {
    use orfe_protocol::desired::Coder;
    use orfe_protocol::secret::Secret;
    use orfe_protocol::tag::Tag;

    use super::*;

    fn plan(credential: Credential) -> ChildPlan {
        ChildPlan {
            slot: 0,
            name: "box-0".into(),
            coder: Coder {
                url: "https://coder.demo.internal".parse().unwrap(),
                credential,
                ca_pem: None,
            },
            tags: ["gpu=none", "os=linux"]
                .iter()
                .map(|tag| tag.parse::<Tag>().unwrap())
                .collect(),
        }
    }

    fn spec(credential: Credential) -> Spec {
        let folders = Folders {
            root: "/state/slots/0".into(),
        };
        let place = Place {
            program: "/opt/coder".into(),
            path: OsStr::new("/usr/bin"),
            folders: &folders,
            proxy_url: "http://orfe:pr0xy-credential@127.0.0.1:1".to_owned().into(),
            proxy_credential: "pr0xy-credential".to_owned().into(),
            ca_bundle: Some(Path::new("/state/slots/0/ca.pem")),
            variable: &|name| match name {
                "DOCKER_HOST" => Some("unix:///run/user/1000/docker.sock".into()),
                "SSL_CERT_FILE" => Some("/etc/own.pem".into()),
                _ => None,
            },
        };
        build(&plan(credential), place)
    }

    #[test]
    fn the_environment_is_exactly_this() {
        let spec = spec(Credential::Psk(Secret::new("hunter2-psk".into())));
        let shown: Vec<String> = spec
            .env
            .iter()
            .map(|(name, value)| format!("{}={value:?}", name.to_string_lossy()))
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        DOCKER_HOST="unix:///run/user/1000/docker.sock"
        SSL_CERT_FILE="/etc/own.pem"
        SSL_CERT_FILE="/state/slots/0/ca.pem"
        PATH="/usr/bin"
        HOME="/state/slots/0/home"
        TMPDIR="/state/slots/0/tmp"
        CODER_CACHE_DIRECTORY="/state/slots/0/cache"
        CODER_URL="https://coder.demo.internal"
        CODER_PROVISIONER_DAEMON_NAME="box-0"
        CODER_PROVISIONER_DAEMON_PSK=[secret]
        CODER_PROVISIONERD_TAGS="gpu=none,os=linux"
        HTTP_PROXY=[secret]
        http_proxy=[secret]
        HTTPS_PROXY=[secret]
        https_proxy=[secret]
        "#);
    }

    #[test]
    fn argv_is_the_same_for_every_secret() {
        let psk = spec(Credential::Psk(Secret::new("hunter2-psk".into())));
        let key = spec(Credential::Key(Secret::new("hunter2-key".into())));
        assert_eq!(psk.args, key.args);
        assert_eq!(
            psk.args,
            ["provisionerd", "start", "--log-human=", "--log-json=/dev/stderr"]
        );
        assert!(!format!("{psk:?}{key:?}").contains("hunter2"));
    }
}
