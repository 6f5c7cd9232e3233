//! The machine owner's own HTTP proxy: what stands between this machine and the registry, and everything else that does not
//! go through the tunnel.
//!
//! Flag > `ORFE_HTTP_PROXY` > `http_proxy.url` > `HTTPS_PROXY` or `HTTP_PROXY`, which many programs heed and so are no more than
//! the default. A URL may hold a password: it is never shown, and never taken from where everybody could read it.

use std::ffi::OsString;
use std::path::Path;

use orfe_platform::private;
use orfe_protocol::secret::Secret;
use orfe_tunnel::proxy::{UpstreamProxy, UpstreamProxyError};
use secrecy::SecretString;
use serde::Deserialize;

use super::{Config, Origin, Setting, pick, text_variable};
use crate::failure::{Exit, Failure};

/// What is written for "no proxy, whatever the environment says".
const OFF: &str = "off";

/// The same in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[http_proxy]`"
)]
pub(super) struct RawHttpProxy {
    url: Option<Secret>,
    no_proxy: Option<String>,
}

/// The proxy in force.
#[derive(Debug, Clone)]
pub(crate) struct HttpProxy {
    /// None: everything is dialled directly.
    pub(crate) proxy: Option<UpstreamProxy>,
    /// Why the one of `HTTPS_PROXY` is passed over: it was not meant for this program alone, so it stops nothing.
    unusable: Option<UpstreamProxyError>,
}

impl HttpProxy {
    fn read(text: &str, no_proxy: &str) -> Result<Self, UpstreamProxyError> {
        let proxy = (text != OFF)
            .then(|| UpstreamProxy::parse(&SecretString::from(text), no_proxy))
            .transpose()?;
        Ok(Self {
            proxy,
            unusable: None,
        })
    }

    fn of_environment(text: Option<&str>, no_proxy: &str) -> Self {
        let read = text.map_or(
            Ok(Self {
                proxy: None,
                unusable: None,
            }),
            |text| Self::read(text, no_proxy),
        );
        read.unwrap_or_else(|error| Self {
            proxy: None,
            unusable: Some(error),
        })
    }

    /// Says in the log what the environment asked for in vain.
    pub(crate) fn warn(&self) {
        if let Some(error) = &self.unusable {
            tracing::warn!(%error, "the proxy of this machine's environment (HTTPS_PROXY) cannot be used");
        }
    }

    /// Without the credential.
    pub(super) fn show(&self) -> String {
        match (&self.proxy, &self.unusable) {
            (None, None) => OFF.to_owned(),
            (None, Some(error)) => format!("{OFF} (HTTPS_PROXY: {error})"),
            (Some(proxy), _) if proxy.has_credential() => {
                format!("http://{} (with a credential)", proxy.address())
            }
            (Some(proxy), _) => format!("http://{}", proxy.address()),
        }
    }
}

/// The proxy, and which hosts are dialled past it, as Go's `NO_PROXY` writes them.
pub(super) fn resolve(
    variable: &dyn Fn(&str) -> Option<OsString>,
    file: &Path,
    raw: RawHttpProxy,
) -> Result<(Setting<HttpProxy>, Setting<String>), Failure> {
    let text = |name: &str| text_variable(name, variable(name));
    // Upper case goes before lower case. What is no text was never meant for this program, so it is not complained of.
    let either = |names: &[&str]| names.iter().find_map(|name| variable(name)?.into_string().ok());
    let no_proxy = pick(None, text("ORFE_NO_PROXY")?, raw.no_proxy, || {
        either(&["NO_PROXY", "no_proxy"]).unwrap_or_default()
    });
    let place = format!("http_proxy.url in {}", file.display());
    let of_file = raw
        .url
        .map(|url| checked(&place, url.expose(), &no_proxy.value))
        .transpose()?;
    if of_file.as_ref().is_some_and(HttpProxy::has_credential) {
        check_private(&place, file)?;
    }
    let of_variable = text("ORFE_HTTP_PROXY")?
        .map(|url| checked("the variable ORFE_HTTP_PROXY", &url, &no_proxy.value))
        .transpose()?;
    let http_proxy = pick(None, of_variable, of_file, || {
        let url = either(&["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"]);
        HttpProxy::of_environment(url.as_deref(), &no_proxy.value)
    });
    Ok((http_proxy, no_proxy))
}

impl HttpProxy {
    fn has_credential(&self) -> bool {
        self.proxy.as_ref().is_some_and(UpstreamProxy::has_credential)
    }
}

impl Config {
    /// Takes the flag `--http-proxy`, if it was given.
    pub(crate) fn choose_http_proxy(&mut self, flag: Option<&str>) -> Result<(), Failure> {
        let Some(url) = flag else { return Ok(()) };
        let value = checked("`--http-proxy`", url, &self.no_proxy.value)?;
        if value.has_credential() {
            return Err(Failure::new(
                "`--http-proxy` holds a credential, and every user of this machine sees a command line",
            )
            .hint(
                "put the URL into agent.toml as `http_proxy.url`, or into the variable ORFE_HTTP_PROXY"
                    .to_owned(),
            )
            .exit(Exit::Usage));
        }
        self.http_proxy = Setting {
            value,
            origin: Origin::Flag,
        };
        Ok(())
    }
}

fn checked(place: &str, url: &str, no_proxy: &str) -> Result<HttpProxy, Failure> {
    HttpProxy::read(url, no_proxy).map_err(|error| {
        Failure::new(format!("{place} cannot be used"))
            .hint(format!(
                "write it as http://[USER:PASSWORD@]HOST:PORT, or `{OFF}` for no proxy"
            ))
            .exit(Exit::Usage)
            .because(error)
    })
}

fn check_private(place: &str, file: &Path) -> Result<(), Failure> {
    match private::is_readable_by_all(file) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Failure::new(format!(
            "{place} holds a credential, and every user of this machine may read it"
        ))
        .hint(format!("chmod o-rwx {}", file.display()))
        .exit(Exit::Usage)),
        Err(error) => Err(Failure::new(format!("cannot tell who may read {place}")).because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(
        variables: &[(&str, &str)],
        toml: &str,
    ) -> Result<(Setting<HttpProxy>, Setting<String>), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        private::write(&file, toml.as_bytes()).unwrap();
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        let variable = |name: &str| find(name).map(|(_, value)| OsString::from(value));
        resolve(&variable, &file, toml::from_str(toml).unwrap())
    }

    fn shown(variables: &[(&str, &str)], toml: &str) -> (String, Origin) {
        let (proxy, _) = with(variables, toml).unwrap();
        (proxy.value.show(), proxy.origin)
    }

    #[test]
    fn what_is_said_to_orfe_goes_before_what_is_said_to_all() {
        let all = ("HTTPS_PROXY", "http://all.lan:1");
        let own = ("ORFE_HTTP_PROXY", "http://own.lan:2");
        let file = "url = \"http://file.lan:3\"";
        for (variables, toml, expected) in [
            (&[][..], "", ("off", Origin::Default)),
            (&[all], "", ("http://all.lan:1", Origin::Default)),
            (&[all], file, ("http://file.lan:3", Origin::File)),
            (&[all, own], file, ("http://own.lan:2", Origin::Environment)),
            (&[all], "url = \"off\"", ("off", Origin::File)),
            (
                &[("http_proxy", "http://small.lan")],
                "",
                ("http://small.lan:80", Origin::Default),
            ),
        ] {
            let (text, origin) = shown(variables, toml);
            assert_eq!((text.as_str(), origin), expected, "{variables:?} {toml}");
        }
    }

    #[test]
    fn exceptions_come_from_the_same_places() {
        let (_, exceptions) = with(&[("NO_PROXY", ".lan")], "").unwrap();
        assert_eq!(
            (exceptions.value.as_str(), exceptions.origin),
            (".lan", Origin::Default)
        );
        let (_, exceptions) = with(&[("NO_PROXY", ".lan")], "no_proxy = \".local\"").unwrap();
        assert_eq!(
            (exceptions.value.as_str(), exceptions.origin),
            (".local", Origin::File)
        );
    }

    #[test]
    fn a_credential_is_shown_nowhere() {
        let toml = "url = \"http://alice:hunter2@proxy.lan:3128\"";
        let (proxy, _) = with(&[], toml).unwrap();
        assert_eq!(proxy.value.show(), "http://proxy.lan:3128 (with a credential)");
        let raw: RawHttpProxy = toml::from_str(toml).unwrap();
        for text in [format!("{proxy:?}"), format!("{raw:?}")] {
            assert!(!text.contains("hunter2") && !text.contains("YWxpY2"), "{text}");
        }
        let error = with(&[("ORFE_HTTP_PROXY", "socks5://alice:hunter2@proxy.lan")], "").unwrap_err();
        let error = format!("{:#}", anyhow::Error::from(error));
        assert!(
            error.contains("ORFE_HTTP_PROXY") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_credential_may_not_stand_where_all_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        let read = |mode: u32, url: &str| {
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let raw = toml::from_str(&format!("url = \"{url}\"")).unwrap();
            resolve(&|_| None, &file, raw)
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        assert_eq!(read(0o644, "http://proxy.lan"), Ok(()));
        assert_eq!(read(0o640, "http://alice:hunter2@proxy.lan"), Ok(()));
        let error = read(0o644, "http://alice:hunter2@proxy.lan").unwrap_err();
        assert!(
            error.contains("holds a credential") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn what_others_put_into_the_environment_stops_nothing() {
        let (text, origin) = shown(&[("HTTPS_PROXY", "socks5://proxy.lan")], "");
        assert!(text.starts_with("off (HTTPS_PROXY: "), "{text}");
        assert_eq!(origin, Origin::Default);
    }
}
