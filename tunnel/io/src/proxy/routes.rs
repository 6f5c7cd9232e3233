//! Which way a connection goes: a pure function of the policy's table and the target.
//!
//! While a tunnel is wanted, a name of the policy goes through the tunnel or nowhere. Everything else goes directly, or
//! through the machine owner's own HTTP proxy, and never to this machine itself or to its link.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::refusal::Refusal;
use super::target::{Host, Target, TargetError};
use super::upstream::UpstreamProxy;

/// Whether the desired state wants a tunnel. "Wanted" says nothing about whether it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TunnelWanted {
    /// Policy names are public names: they are resolved and dialled like any other.
    Off,
    /// Policy names go through the tunnel or nowhere. The default, because it fails closed.
    #[default]
    Wanted,
}

/// Everything that the proxy routes by. A new value takes effect with the next request; connections that are open
/// stay as they are until they are cut.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    names: BTreeMap<String, PolicyName>,
    tunnel: TunnelWanted,
    upstream_proxy: Option<Arc<UpstreamProxy>>,
}

#[derive(Debug, Clone)]
struct PolicyName {
    inner: IpAddr,
    ports: BTreeSet<u16>,
}

/// The way that a connection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Through the tunnel to an inner address.
    Tunnel,
    /// From this machine's own network.
    Direct,
    /// Through the machine owner's own HTTP proxy.
    Upstream,
}

/// What to do with a target.
#[derive(Debug)]
pub(super) enum Decision {
    Go(Way),
    Refuse(Refusal),
}

/// A route with all that is needed to take it.
#[derive(Debug)]
pub(super) enum Way {
    Tunnel(SocketAddr),
    Direct(AddressRule),
    Upstream(Arc<UpstreamProxy>),
}

/// Which addresses a direct connection may end up at, checked after the name is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressRule {
    /// Loopback and link-local are allowed: a port that the policy itself names, without a tunnel.
    pub(super) local: bool,
    /// Inner addresses, which are never dialled from outside the tunnel.
    pub(super) inner: BTreeSet<IpAddr>,
}

impl Way {
    pub(super) fn route(&self) -> Route {
        match self {
            Self::Tunnel(_) => Route::Tunnel,
            Self::Direct(_) => Route::Direct,
            Self::Upstream(_) => Route::Upstream,
        }
    }
}

impl Routes {
    /// An empty table.
    pub fn new(tunnel: TunnelWanted) -> Self {
        Self {
            tunnel,
            ..Self::default()
        }
    }

    /// Adds a name of the policy with its inner address and the ports that may be reached there. The name is taken
    /// in any case, with or without its trailing dot; a name that stood there before is replaced.
    ///
    /// # Errors
    /// The text is not a DNS name.
    pub fn add_name(
        &mut self,
        name: &str,
        inner: IpAddr,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<(), TargetError> {
        match Host::parse(name)? {
            Host::Name(name) => {
                let entry = PolicyName {
                    inner: inner.to_canonical(),
                    ports: ports.into_iter().collect(),
                };
                self.names.insert(name, entry);
                Ok(())
            }
            Host::Ip(_) => Err(TargetError::BadHost),
        }
    }

    /// Sets or clears the owner's own proxy, through which everything goes that does not go through the tunnel.
    pub fn set_upstream_proxy(&mut self, proxy: Option<UpstreamProxy>) {
        self.upstream_proxy = proxy.map(Arc::new);
    }

    /// Whether the policy has this name with this port. The name is in lower case, as targets are.
    pub(super) fn names(&self, name: &str, port: u16) -> bool {
        self.names
            .get(name)
            .is_some_and(|entry| entry.ports.contains(&port))
    }

    pub(super) fn decide(&self, target: &Target) -> Decision {
        let named = self.policy_ports(&target.host);
        if self.tunnel == TunnelWanted::Wanted
            && let Some((inner, ports)) = named
        {
            return if ports.contains(&target.port) {
                Decision::Go(Way::Tunnel(SocketAddr::new(inner, target.port)))
            } else {
                Decision::Refuse(Refusal::PortNotInPolicy(target.port))
            };
        }
        let rule = AddressRule {
            local: named.is_some_and(|(_, ports)| ports.contains(&target.port)),
            inner: match self.tunnel {
                TunnelWanted::Off => BTreeSet::new(),
                TunnelWanted::Wanted => self.names.values().map(|name| name.inner).collect(),
            },
        };
        if let Err(refusal) = rule.check_host(&target.host) {
            return Decision::Refuse(refusal);
        }
        match &self.upstream_proxy {
            Some(proxy) if proxy.applies_to(target) => Decision::Go(Way::Upstream(Arc::clone(proxy))),
            _ => Decision::Go(Way::Direct(rule)),
        }
    }

    /// The inner address and the ports of a policy name, or of an address that is some name's inner address. Names
    /// that share an inner address share their ports, because the gateway sees the address alone.
    fn policy_ports(&self, host: &Host) -> Option<(IpAddr, BTreeSet<u16>)> {
        match host {
            Host::Name(name) => self
                .names
                .get(name)
                .map(|entry| (entry.inner, entry.ports.clone())),
            Host::Ip(address) if self.tunnel == TunnelWanted::Wanted => {
                let mut same = self
                    .names
                    .values()
                    .filter(|entry| entry.inner == *address)
                    .peekable();
                same.peek()?;
                Some((
                    *address,
                    same.flat_map(|entry| entry.ports.iter().copied()).collect(),
                ))
            }
            Host::Ip(_) => None,
        }
    }
}

impl AddressRule {
    /// Whether a resolved address may be dialled.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        let address = embedded_v4(address);
        if self.inner.contains(&address) {
            return Err(Refusal::AddressRefused("an inner address of the tunnel"));
        }
        match refused_kind(address) {
            Some(kind) if !(self.local && kind.is_local()) => Err(Refusal::AddressRefused(kind.text())),
            _ => Ok(()),
        }
    }

    /// What can be said before a name is resolved; also holds for what the owner's proxy would resolve.
    fn check_host(&self, host: &Host) -> Result<(), Refusal> {
        match host {
            Host::Ip(address) => self.check(*address),
            Host::Name(name) if !self.local && (name == "localhost" || name.ends_with(".localhost")) => {
                Err(Refusal::AddressRefused(AddressKind::Loopback.text()))
            }
            Host::Name(_) => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddressKind {
    Loopback,
    LinkLocal,
    Unspecified,
    Multicast,
    Broadcast,
}

impl AddressKind {
    fn is_local(self) -> bool {
        matches!(self, Self::Loopback | Self::LinkLocal)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
        }
    }
}

fn refused_kind(address: IpAddr) -> Option<AddressKind> {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Some(AddressKind::Loopback),
        IpAddr::V4(v4) if v4.is_link_local() => Some(AddressKind::LinkLocal),
        // All of 0.0.0.0/8 is "this network" (RFC 1122 §3.2.1.3); some systems connect to themselves there.
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(AddressKind::Unspecified),
        IpAddr::V4(v4) if v4.is_multicast() => Some(AddressKind::Multicast),
        IpAddr::V4(v4) if v4.is_broadcast() => Some(AddressKind::Broadcast),
        IpAddr::V6(v6) if v6.is_loopback() => Some(AddressKind::Loopback),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(AddressKind::LinkLocal),
        IpAddr::V6(v6) if v6.is_unspecified() => Some(AddressKind::Unspecified),
        IpAddr::V6(v6) if v6.is_multicast() => Some(AddressKind::Multicast),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The IPv4 address inside an IPv6 address that stands for one: mapped (`::ffff:a.b.c.d`), compatible (`::a.b.c.d`,
/// RFC 4291 §2.5.5), or behind the well-known NAT64 prefix (`64:ff9b::/96`, RFC 6052).
fn embedded_v4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if v6 == Ipv6Addr::UNSPECIFIED || v6 == Ipv6Addr::LOCALHOST {
        return address;
    }
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::SecretString;

    use super::*;

    const INNER: &str = "100.127.0.1";

    fn routes(tunnel: TunnelWanted) -> Routes {
        let mut routes = Routes::new(tunnel);
        let inner = INNER.parse().expect("address");
        routes
            .add_name("Coder.Demo.Internal.", inner, [443, 8080])
            .expect("name");
        routes
            .add_name("registry.demo.internal", inner, [7443])
            .expect("name");
        routes
            .add_name("six.demo.internal", "fd7a::5".parse().expect("address"), [443])
            .expect("name");
        routes
    }

    fn with_proxy(tunnel: TunnelWanted) -> Routes {
        let mut routes = routes(tunnel);
        let url = SecretString::from("http://proxy.lan:3128");
        routes.set_upstream_proxy(Some(
            UpstreamProxy::parse(&url, ".lan,192.0.2.0/24").expect("url"),
        ));
        routes
    }

    fn decide(routes: &Routes, target: &str) -> Decision {
        routes.decide(&Target::parse(target, None).expect(target))
    }

    /// A short word for a decision, so that the tables below stay readable.
    fn word(decision: &Decision) -> String {
        match decision {
            Decision::Go(Way::Tunnel(address)) => format!("tunnel {address}"),
            Decision::Go(Way::Direct(rule)) if rule.local => "direct, local allowed".to_owned(),
            Decision::Go(Way::Direct(_)) => "direct".to_owned(),
            Decision::Go(Way::Upstream(_)) => "upstream".to_owned(),
            Decision::Refuse(refusal) => refusal.code().to_owned(),
        }
    }

    #[test]
    fn with_a_tunnel_wanted_policy_names_go_through_it_or_nowhere() {
        for routes in [routes(TunnelWanted::Wanted), with_proxy(TunnelWanted::Wanted)] {
            for (target, want) in [
                ("coder.demo.internal:443", "tunnel 100.127.0.1:443"),
                ("CODER.demo.internal.:8080", "tunnel 100.127.0.1:8080"),
                ("coder.demo.internal:22", "port-not-in-policy"),
                ("coder.demo.internal:7443", "port-not-in-policy"),
                ("registry.demo.internal:7443", "tunnel 100.127.0.1:7443"),
                ("six.demo.internal:443", "tunnel [fd7a::5]:443"),
                ("100.127.0.1:443", "tunnel 100.127.0.1:443"),
                ("100.127.0.1:7443", "tunnel 100.127.0.1:7443"),
                ("[::ffff:100.127.0.1]:443", "tunnel 100.127.0.1:443"),
                ("100.127.0.1:22", "port-not-in-policy"),
                ("[fd7a::5]:443", "tunnel [fd7a::5]:443"),
            ] {
                assert_eq!(word(&decide(&routes, target)), want, "{target}");
            }
        }
    }

    #[test]
    fn everything_else_goes_directly_or_through_the_owners_proxy() {
        for (target, plain, proxied) in [
            ("releases.example:443", "direct", "upstream"),
            ("sub.coder.demo.internal:443", "direct", "upstream"),
            ("demo.internal:443", "direct", "upstream"),
            ("nas.lan:80", "direct", "direct"),
            ("192.0.2.7:80", "direct", "direct"),
            ("198.51.100.7:80", "direct", "upstream"),
            ("10.0.0.1:80", "direct", "upstream"),
            ("localhost:80", "address-refused", "address-refused"),
            ("x.localhost:80", "address-refused", "address-refused"),
            ("127.9.9.9:80", "address-refused", "address-refused"),
            ("[::1]:80", "address-refused", "address-refused"),
            ("169.254.169.254:80", "address-refused", "address-refused"),
            ("0.0.0.0:80", "address-refused", "address-refused"),
            ("[::]:80", "address-refused", "address-refused"),
            ("[::ffff:127.0.0.1]:80", "address-refused", "address-refused"),
            ("[::127.0.0.1]:80", "address-refused", "address-refused"),
            ("[64:ff9b::7f00:1]:80", "address-refused", "address-refused"),
            ("[64:ff9b::100.127.0.1]:443", "address-refused", "address-refused"),
            ("[fe80::1]:80", "address-refused", "address-refused"),
            ("[ff02::1]:80", "address-refused", "address-refused"),
            ("224.0.0.1:80", "address-refused", "address-refused"),
            ("255.255.255.255:80", "address-refused", "address-refused"),
        ] {
            assert_eq!(
                word(&decide(&routes(TunnelWanted::Wanted), target)),
                plain,
                "{target}"
            );
            assert_eq!(
                word(&decide(&with_proxy(TunnelWanted::Wanted), target)),
                proxied,
                "{target}"
            );
        }
    }

    #[test]
    fn without_a_tunnel_policy_names_are_public_names() {
        for (target, plain, proxied) in [
            ("coder.demo.internal:443", "direct, local allowed", "upstream"),
            ("coder.demo.internal:22", "direct", "upstream"),
            ("100.127.0.1:443", "direct", "upstream"),
            ("127.0.0.1:443", "address-refused", "address-refused"),
        ] {
            assert_eq!(
                word(&decide(&routes(TunnelWanted::Off), target)),
                plain,
                "{target}"
            );
            assert_eq!(
                word(&decide(&with_proxy(TunnelWanted::Off), target)),
                proxied,
                "{target}"
            );
        }
    }

    #[test]
    fn what_a_name_resolves_to_is_checked_too() {
        let Decision::Go(Way::Direct(strict)) = decide(&routes(TunnelWanted::Wanted), "rebound.example:80")
        else {
            panic!("direct")
        };
        let Decision::Go(Way::Direct(policy)) = decide(&routes(TunnelWanted::Off), "coder.demo.internal:443")
        else {
            panic!("direct")
        };
        for (address, strict_allows, policy_allows) in [
            ("198.51.100.1", true, true),
            ("10.0.0.1", true, true),
            ("fd00::1", true, true),
            ("127.0.0.1", false, true),
            ("::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("169.254.169.254", false, true),
            ("fe80::1", false, true),
            (INNER, false, true),
            ("::ffff:100.127.0.1", false, true),
            ("0.0.0.0", false, false),
            ("0.1.2.3", false, false),
            ("::", false, false),
            ("ff02::1", false, false),
            ("239.1.1.1", false, false),
        ] {
            let address: IpAddr = address.parse().expect(address);
            assert_eq!(strict.check(address).is_ok(), strict_allows, "{address}");
            assert_eq!(policy.check(address).is_ok(), policy_allows, "{address}");
        }
    }

    #[test]
    fn a_policy_name_has_to_be_a_name() {
        let mut routes = Routes::new(TunnelWanted::Wanted);
        let inner = INNER.parse().expect("address");
        for name in ["", "10.0.0.1", "[::1]", "a b", "coder.demo.internal:443"] {
            assert!(routes.add_name(name, inner, [443]).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_policy_name_never_leaves_the_tunnel_in_any_case_or_port(
            upper in proptest::collection::vec(any::<bool>(), 19),
            dot in any::<bool>(),
            port in 1..=u16::MAX,
        ) {
            let mut name: String = "coder.demo.internal"
                .chars()
                .zip(upper)
                .map(|(letter, upper)| if upper { letter.to_ascii_uppercase() } else { letter })
                .collect();
            if dot {
                name.push('.');
            }
            let decision = decide(&with_proxy(TunnelWanted::Wanted), &format!("{name}:{port}"));
            prop_assert!(matches!(decision, Decision::Go(Way::Tunnel(_)) | Decision::Refuse(_)));
        }

        #[test]
        fn no_address_is_both_local_and_dialled(address in any::<u32>(), port in 1..=u16::MAX) {
            let address = Ipv4Addr::from(address);
            let target = Target { host: Host::Ip(IpAddr::V4(address)), port };
            let decision = routes(TunnelWanted::Wanted).decide(&target);
            let local = address.is_loopback() || address.is_link_local() || address.is_multicast();
            prop_assert!(!local || matches!(decision, Decision::Refuse(_)));
        }
    }
}
