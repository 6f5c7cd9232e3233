//! Which Coder the demo uses, and under which name the devices know it.
//!
//! The stand-in is reached by a name that exists in the gateway's policy and nowhere else. A real
//! Coder at https keeps its own name, for its certificate is made out to it; one at plain http on
//! this machine's loopback gets the demo's name too, because Go sends nothing for localhost or
//! 127.0.0.1 through a proxy, and so through the tunnel.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use url::{Host, Url};

use super::folder::Folder;
use super::part;

/// The name of Coder in the demo; `.internal` is reserved for private use and resolves nowhere.
pub(crate) const DEMO_NAME: &str = "coder.demo.internal";

/// What the flags ask for, checked.
#[derive(Debug)]
pub(crate) enum CoderChoice {
    StandIn,
    Real(Box<RealCoder>),
}

/// A Coder that is not the demo's own.
#[derive(Debug, Clone)]
pub(crate) struct RealCoder {
    pub target: Target,
    pub psk_file: PathBuf,
    pub program: PathBuf,
    pub ca_file: Option<PathBuf>,
}

impl CoderChoice {
    /// Checks the flags of a real Coder; without them it is the stand-in.
    pub(crate) fn from_flags(
        url: Option<Url>,
        psk_file: Option<PathBuf>,
        coder_bin: Option<PathBuf>,
        coder_ca: Option<PathBuf>,
    ) -> Result<Self> {
        let (Some(url), Some(psk_file), Some(program)) = (url, psk_file, coder_bin) else {
            return Ok(Self::StandIn);
        };
        let existing = |path: PathBuf, flag: &str| {
            path.canonicalize()
                .with_context(|| format!("{flag} {}", path.display()))
        };
        Ok(Self::Real(Box::new(RealCoder {
            target: Target::of_real(&url)?,
            psk_file: existing(psk_file, "--psk-file")?,
            program: existing(program, "--coder-bin")?,
            ca_file: coder_ca.map(|path| existing(path, "--coder-ca")).transpose()?,
        })))
    }
}

/// Coder as the devices know it, and where the gateway finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The URL that the devices are given.
    pub url: Url,
    /// The name in the gateway's policy.
    pub name: String,
    pub port: u16,
    /// Where the gateway dials; `None` is the same name and port.
    pub upstream: Option<String>,
}

impl Target {
    /// The stand-in, which listens at `listening` with TLS.
    pub(crate) fn of_stand_in(listening: SocketAddr) -> Result<Self> {
        Ok(Self {
            url: Url::parse(&format!("https://{DEMO_NAME}")).context("the demo's own URL")?,
            name: DEMO_NAME.to_owned(),
            port: 443,
            upstream: Some(listening.to_string()),
        })
    }

    fn of_real(url: &Url) -> Result<Self> {
        let host = url
            .host()
            .with_context(|| format!("--coder-url {url} names no host"))?;
        let port = url
            .port_or_known_default()
            .with_context(|| format!("--coder-url {url} names no port"))?;
        let loopback = loopback_address(&host, port);
        match (url.scheme(), &host) {
            ("https", Host::Domain("localhost")) => bail!(
                "--coder-url {url} names localhost, which Go programs such as coder dial past every proxy, and so past the tunnel\n\
                 hint: give another name that its certificate is made out to, and put it into /etc/hosts"
            ),
            ("https", Host::Domain(name)) => Ok(Self {
                url: url.clone(),
                name: name.to_ascii_lowercase(),
                port,
                // The gateway dials loopback only where policy spells the address out.
                upstream: loopback.map(|address| address.to_string()),
            }),
            ("https", Host::Ipv4(_) | Host::Ipv6(_)) => bail!(
                "--coder-url {url} names an address; https needs the name that its certificate is made out to\n\
                 hint: give the name, and put it into /etc/hosts if no DNS knows it"
            ),
            ("http", Host::Domain(name)) if loopback.is_none() => Ok(Self {
                url: url.clone(),
                name: name.to_ascii_lowercase(),
                port,
                upstream: None,
            }),
            ("http", _) => {
                let upstream = match loopback {
                    Some(address) => address.to_string(),
                    None => format!("{host}:{port}"),
                };
                let mut renamed = url.clone();
                renamed
                    .set_host(Some(DEMO_NAME))
                    .context("the demo's name as host")?;
                // Port 80 is left out of an http URL by itself.
                let _ = renamed.set_port(None);
                Ok(Self {
                    url: renamed,
                    name: DEMO_NAME.to_owned(),
                    port: 80,
                    upstream: Some(upstream),
                })
            }
            (scheme, _) => bail!("--coder-url {url} has the scheme `{scheme}`; it must be http or https"),
        }
    }
}

/// The address of `host` on this machine's loopback, if that is where it is.
fn loopback_address(host: &Host<&str>, port: u16) -> Option<SocketAddr> {
    let addresses: Vec<SocketAddr> = match host {
        Host::Ipv4(address) => vec![(IpAddr::V4(*address), port).into()],
        Host::Ipv6(address) => vec![(IpAddr::V6(*address), port).into()],
        // A name that does not resolve here may resolve at the time the gateway dials it.
        Host::Domain(name) => (*name, port)
            .to_socket_addrs()
            .map(Iterator::collect)
            .unwrap_or_default(),
    };
    addresses.into_iter().find(|address| address.ip().is_loopback())
}

/// The stand-in's command line. It says in its ready line where it listens.
pub(crate) fn stand_in_command(program: &Path, folder: &Folder, psk_file: &Path) -> Command {
    let mut command = part::apart(program);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--name", DEMO_NAME])
        .arg("--tls-self")
        .arg(folder.join("coder"))
        .arg("--psk-file")
        .arg(psk_file)
        .arg("--record")
        .arg(folder.join("coder/record.jsonl"));
    command
}

/// The certificate of the stand-in's own authority.
pub(crate) fn stand_in_ca(folder: &Folder) -> PathBuf {
    folder.join("coder/ca.pem")
}

/// The first `terraform` on this process's PATH.
pub(crate) fn terraform_on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("terraform"))
        .find(|file| {
            nix::unistd::access(file.as_path(), nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
        })
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::{CoderChoice, Target};

    fn target(url: &str) -> Target {
        Target::of_real(&Url::parse(url).unwrap()).unwrap()
    }

    #[test]
    fn a_real_coder_keeps_its_name_on_https_and_gets_the_demos_on_http_at_loopback() {
        let rows = [
            // url, url of the devices, name, port, upstream
            (
                "http://127.0.0.1:3000",
                "http://coder.demo.internal/",
                "coder.demo.internal",
                80,
                Some("127.0.0.1:3000"),
            ),
            (
                "http://[::1]:3000/x",
                "http://coder.demo.internal/x",
                "coder.demo.internal",
                80,
                Some("[::1]:3000"),
            ),
            (
                "http://192.0.2.7:3000",
                "http://coder.demo.internal/",
                "coder.demo.internal",
                80,
                Some("192.0.2.7:3000"),
            ),
            (
                "https://Coder.Invalid",
                "https://coder.invalid/",
                "coder.invalid",
                443,
                None,
            ),
            (
                "https://coder.invalid:8443/",
                "https://coder.invalid:8443/",
                "coder.invalid",
                8443,
                None,
            ),
            (
                "http://coder.invalid",
                "http://coder.invalid/",
                "coder.invalid",
                80,
                None,
            ),
        ];
        for (url, seen, name, port, upstream) in rows {
            let target = target(url);
            assert_eq!(target.url.as_str(), seen, "{url}");
            assert_eq!((target.name.as_str(), target.port), (name, port), "{url}");
            assert_eq!(target.upstream.as_deref(), upstream, "{url}");
        }
    }

    #[test]
    fn localhost_counts_as_loopback() {
        let target = target("http://localhost:3000");
        assert_eq!(target.name, "coder.demo.internal");
        assert!(
            target
                .upstream
                .is_some_and(|upstream| upstream.ends_with(":3000"))
        );
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_built() {
        for (url, part) in [
            ("https://192.0.2.7", "certificate"),
            ("https://localhost:8443", "past the tunnel"),
            ("ftp://coder.invalid", "http or https"),
            ("unix:/run/coder", "names no host"),
        ] {
            let error = Target::of_real(&Url::parse(url).unwrap())
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        }
        let missing = CoderChoice::from_flags(
            Some(Url::parse("https://coder.invalid").unwrap()),
            Some("/nonexistent/psk".into()),
            Some("/nonexistent/coder".into()),
            None,
        );
        assert!(
            missing
                .unwrap_err()
                .to_string()
                .contains("--psk-file /nonexistent/psk")
        );
    }
}
