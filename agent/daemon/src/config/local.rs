//! The ways in that the person at this machine may open: a proxy, and static forwards.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use orfe_tunnel::proxy::Target;

use super::file::RawForward;
use crate::failure::{Exit, Failure};

/// A port of this machine that leads to one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) listen: SocketAddr,
    pub(crate) to: Target,
    /// Others than this machine may use it; said in the file in so many words.
    pub(crate) exposed: bool,
}

impl fmt::Display for Forward {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exposed = if self.exposed { " (exposed)" } else { "" };
        write!(formatter, "{} to {}{exposed}", self.listen, self.to)
    }
}

/// Checks where the proxy is to listen.
pub(super) fn proxy(file: &Path, listen: Option<SocketAddr>) -> Result<Option<SocketAddr>, Failure> {
    match listen {
        Some(listen) if !listen.ip().is_loopback() => Err(Failure::new(format!(
            "proxy.listen in {} is not a loopback address",
            file.display()
        ))
        .hint("127.0.0.1 or [::1]: the proxy is for this machine alone".to_owned())
        .exit(Exit::Usage)),
        listen => Ok(listen),
    }
}

/// Checks the forwards.
pub(super) fn forwards(file: &Path, raw: Option<Vec<RawForward>>) -> Result<Option<Vec<Forward>>, Failure> {
    raw.map(|raw| raw.into_iter().map(|raw| forward(file, raw)).collect())
        .transpose()
}

fn forward(file: &Path, raw: RawForward) -> Result<Forward, Failure> {
    let RawForward { listen, to, exposed } = raw;
    let place = file.display();
    let to = Target::parse(&to, None).map_err(|error| {
        Failure::new(format!("the forward to `{to}` in {place} leads nowhere"))
            .hint("a host and a port are expected: \"coder.example.com:443\"".to_owned())
            .exit(Exit::Usage)
            .because(error)
    })?;
    if !exposed && !listen.ip().is_loopback() {
        return Err(Failure::new(format!(
            "the forward on {listen} in {place} would serve everybody who reaches it"
        ))
        .hint(
            "listen on 127.0.0.1, or say `exposed = true`: a forward asks nobody for a credential".to_owned(),
        )
        .exit(Exit::Usage));
    }
    Ok(Forward { listen, to, exposed })
}

/// Refuses two ways in that would listen on one address.
pub(super) fn check_apart(
    file: &Path,
    proxy: Option<SocketAddr>,
    forwards: &[Forward],
) -> Result<(), Failure> {
    let proxy = proxy.map(|listen| (listen, format!("proxy.listen {listen}")));
    let forwards = forwards
        .iter()
        .map(|forward| (forward.listen, format!("the forward {forward}")));
    let ways: Vec<(SocketAddr, String)> = proxy.into_iter().chain(forwards).collect();
    let clash = ways.iter().enumerate().find_map(|(index, (listen, name))| {
        let (_, earlier) = ways[..index]
            .iter()
            .find(|(other, _)| is_one_place(*other, *listen))?;
        Some((earlier, name))
    });
    match clash {
        Some((first, second)) => Err(Failure::new(format!(
            "{first} and {second} in {} cannot both listen",
            file.display()
        ))
        .hint("give each a port of its own".to_owned())
        .exit(Exit::Usage)),
        None => Ok(()),
    }
}

/// Whether only one of two can listen. Port 0 is one that is free, and all addresses of a family include each of it.
fn is_one_place(one: SocketAddr, other: SocketAddr) -> bool {
    let one_has_all =
        one.is_ipv4() == other.is_ipv4() && (one.ip().is_unspecified() || other.ip().is_unspecified());
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || one_has_all)
}

pub(super) fn show_proxy(listen: Option<SocketAddr>) -> String {
    listen.map_or_else(|| "off".to_owned(), |listen| listen.to_string())
}

pub(super) fn show_forwards(forwards: &[Forward]) -> String {
    if forwards.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = forwards.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::*;

    fn read(text: &str) -> Result<(Option<SocketAddr>, Vec<Forward>), String> {
        let file = Path::new("agent.toml");
        let raw = parse(file, text).map_err(|failure| failure.to_string())?;
        let all = proxy(file, raw.proxy.listen).and_then(|proxy| {
            let forwards = forwards(file, raw.forward)?.unwrap_or_default();
            check_apart(file, proxy, &forwards)?;
            Ok((proxy, forwards))
        });
        all.map_err(|failure| crate::failure::render(&failure.into()))
    }

    #[test]
    fn both_are_off_until_they_are_written_down() {
        assert_eq!(read(""), Ok((None, vec![])));
        let (proxy, forwards) = read(
            "[proxy]\nlisten = \"127.0.0.1:1080\"\n\
             [[forward]]\nlisten = \"127.0.0.1:8443\"\nto = \"Coder.Example.com:443\"\n\
             [[forward]]\nlisten = \"0.0.0.0:2222\"\nto = \"[fd00::1]:22\"\nexposed = true\n",
        )
        .unwrap();
        assert_eq!(show_proxy(proxy), "127.0.0.1:1080");
        assert_eq!(
            show_forwards(&forwards),
            "127.0.0.1:8443 to coder.example.com:443, 0.0.0.0:2222 to [fd00::1]:22 (exposed)"
        );
    }

    #[test]
    fn two_ways_in_have_two_addresses() {
        let forward = |listen: &str, to: &str| {
            format!("[[forward]]\nlisten = \"{listen}\"\nto = \"{to}\"\nexposed = true\n")
        };
        let proxy = "[proxy]\nlisten = \"127.0.0.1:1080\"\n".to_owned();
        let error = read(&(proxy + &forward("127.0.0.1:1080", "a.lan:1"))).unwrap_err();
        for part in [
            "proxy.listen 127.0.0.1:1080 and the forward 127.0.0.1:1080 to a.lan:1",
            "in agent.toml cannot both listen",
            "a port of its own",
        ] {
            assert!(error.contains(part), "{error}");
        }
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::1]:1", "[::]:1"),
        ] {
            let error = read(&(forward(one, "a.lan:1") + &forward(other, "b.lan:2"))).unwrap_err();
            assert!(
                error.contains("to a.lan:1") && error.contains("to b.lan:2"),
                "{error}"
            );
        }
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("127.0.0.1:1", "[::1]:1"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            let read = read(&(forward(one, "a.lan:1") + &forward(other, "b.lan:2")));
            assert!(read.is_ok(), "{one} and {other}: {read:?}");
        }
    }

    #[test]
    fn what_would_serve_others_has_to_be_said() {
        for (text, complaint) in [
            ("[proxy]\nlisten = \"0.0.0.0:1080\"\n", "not a loopback address"),
            ("[proxy]\nlisten = \"1080\"\n", "line 2, column 10"),
            (
                "[[forward]]\nlisten = \"0.0.0.0:1\"\nto = \"a:1\"\n",
                "exposed = true",
            ),
            (
                "[[forward]]\nlisten = \"127.0.0.1:1\"\nto = \"a\"\n",
                "the target names no port",
            ),
            ("[[forward]]\nlisten = \"127.0.0.1:1\"\n", "missing field `to`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}
