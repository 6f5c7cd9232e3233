//! The device-wide table of allowed IPs: longest prefix wins, over all peers at once.
//!
//! One table answers both questions, "to which peer does this destination go" and "may this peer send from this
//! source". A table for each peer would let a peer that holds 10.0.0.0/8 send from another's 10.1.0.0/16.
//!
//! Entries are grouped by prefix length and looked up by masked address, longest first. Fleets use /32 and /128 almost
//! only, so a lookup is one or two hash probes whatever the number of peers.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network, with its host bits cleared. `WireGuard`'s word for those that a peer may use inside the tunnel; policy, routes and
/// exceptions name networks of the same kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowedIp {
    address: IpAddr,
    prefix: u8,
}

/// The text or the prefix length is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an IP network such as 100.64.0.7/32 or fd00::/48")]
pub struct ParseAllowedIpError {
    text: String,
}

impl AllowedIp {
    /// The network of `address` with `prefix` leading bits (0 to 32, or 128 for IPv6); host bits are cleared.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, ParseAllowedIpError> {
        if prefix > max_prefix(address) {
            return Err(ParseAllowedIpError {
                text: format!("{address}/{prefix}"),
            });
        }
        let address = match address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & mask4(prefix)).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & mask6(prefix)).into()),
        };
        Ok(Self { address, prefix })
    }

    /// The network of exactly one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            prefix: max_prefix(address),
        }
    }

    /// Whether the address is in the network. One of the other family is not, also where it stands for one that is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => other.to_bits() & mask4(self.prefix) == own.to_bits(),
            (IpAddr::V6(own), IpAddr::V6(other)) => other.to_bits() & mask6(self.prefix) == own.to_bits(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// The network's first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

impl fmt::Display for AllowedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for AllowedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AllowedIp {
    type Err = ParseAllowedIpError;

    /// `ADDRESS/PREFIX`, or `ADDRESS` alone for one host.
    fn from_str(text: &str) -> Result<Self, ParseAllowedIpError> {
        let error = || ParseAllowedIpError {
            text: text.to_owned(),
        };
        let Some((address, prefix)) = text.split_once('/') else {
            return Ok(Self::host(text.parse().map_err(|_| error())?));
        };
        let address = address.parse().map_err(|_| error())?;
        let prefix = prefix.parse().map_err(|_| error())?;
        Self::new(address, prefix).map_err(|_| error())
    }
}

fn max_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// Networks of all peers; each network has one owner.
#[derive(Debug)]
pub(crate) struct AllowedIps<T> {
    entries: HashMap<AllowedIp, T>,
    /// Prefix lengths in use with how many entries have them, longest first.
    lengths4: Vec<(u8, usize)>,
    lengths6: Vec<(u8, usize)>,
}

impl<T: Copy + PartialEq> AllowedIps<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            lengths4: Vec::new(),
            lengths6: Vec::new(),
        }
    }

    /// Gives `network` to `owner`, taking it from whoever had it.
    pub(crate) fn insert(&mut self, network: AllowedIp, owner: T) {
        if self.entries.insert(network, owner).is_some() {
            return;
        }
        let lengths = self.lengths_mut(network.address);
        match lengths.binary_search_by(|(length, _)| network.prefix.cmp(length)) {
            Ok(at) => lengths[at].1 += 1,
            Err(at) => lengths.insert(at, (network.prefix, 1)),
        }
    }

    /// Takes `network` away from `owner`, if it is its.
    pub(crate) fn remove(&mut self, network: AllowedIp, owner: T) {
        if self.entries.get(&network) != Some(&owner) {
            return;
        }
        self.entries.remove(&network);
        let lengths = self.lengths_mut(network.address);
        if let Some(at) = lengths.iter().position(|(length, _)| *length == network.prefix) {
            lengths[at].1 -= 1;
            if lengths[at].1 == 0 {
                lengths.remove(at);
            }
        }
    }

    /// The owner of the longest network that holds `address`.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<T> {
        let lengths = if address.is_ipv4() {
            &self.lengths4
        } else {
            &self.lengths6
        };
        lengths.iter().find_map(|&(prefix, _)| {
            let network = AllowedIp::new(address, prefix).ok()?;
            self.entries.get(&network).copied()
        })
    }

    fn lengths_mut(&mut self, address: IpAddr) -> &mut Vec<(u8, usize)> {
        if address.is_ipv4() {
            &mut self.lengths4
        } else {
            &mut self.lengths6
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn longest_prefix_wins_whatever_the_order() {
        let networks = [
            ("0.0.0.0/0", 0),
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("10.1.2.3/32", 3),
            ("::/0", 4),
            ("fd00::/48", 5),
        ];
        let expected = [
            ("8.8.8.8", 0),
            ("10.9.9.9", 1),
            ("10.1.9.9", 2),
            ("10.1.2.3", 3),
            ("2001:db8::1", 4),
            ("fd00::1", 5),
        ];
        for reverse in [false, true] {
            let mut order = networks;
            if reverse {
                order.reverse();
            }
            let table = table(&order);
            for (address, owner) in expected {
                assert_eq!(table.lookup(address.parse().unwrap()), Some(owner), "{address}");
            }
        }
    }

    #[test]
    fn a_family_without_entries_matches_nothing() {
        assert_eq!(table(&[("0.0.0.0/0", 1)]).lookup("::1".parse().unwrap()), None);
        assert_eq!(table(&[]).lookup("10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn a_network_moves_to_the_last_owner_and_goes_with_it() {
        let mut table = table(&[("10.0.0.1/32", 1), ("10.0.0.1/32", 2), ("10.0.0.0/24", 1)]);
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!(table.lookup(address), Some(2));
        table.remove(AllowedIp::host(address), 1);
        assert_eq!(
            table.lookup(address),
            Some(2),
            "no longer the first owner's to take away"
        );
        table.remove(AllowedIp::host(address), 2);
        assert_eq!(table.lookup(address), Some(1));
        table.remove("10.0.0.0/24".parse().unwrap(), 1);
        assert_eq!(table.lookup(address), None);
        assert!(table.lengths4.is_empty());
    }

    #[test]
    fn the_prefix_decides() {
        for (network, address, inside) in [
            ("10.20.0.0/16", "10.20.255.1", true),
            ("10.20.3.4/16", "10.20.0.0", true),
            ("10.20.0.0/16", "10.21.0.0", false),
            ("10.20.0.0/16", "::ffff:10.20.0.1", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.0", false),
            ("fd00:1::/32", "fd00:1:ffff::1", true),
            ("fd00:1::/32", "fd00:2::1", false),
            ("::/0", "fd00::1", true),
            ("fd00::1/128", "fd00::1", true),
        ] {
            let parsed: AllowedIp = network.parse().unwrap();
            let address = address.parse().unwrap();
            assert_eq!(parsed.contains(address), inside, "{address} in {network}");
        }
    }

    #[test]
    fn text_forms() {
        for (text, shown) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("fd00::1", "fd00::1/128"),
            ("1.2.3.4", "1.2.3.4/32"),
        ] {
            assert_eq!(text.parse::<AllowedIp>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/-1",
            "x/8",
        ] {
            assert!(text.parse::<AllowedIp>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            networks in prop::collection::vec((any::<u32>(), 0u8..=32, 0usize..6), 0..40),
            removed in 0usize..6,
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let mut table = AllowedIps::new();
            let mut list: Vec<(AllowedIp, usize)> = Vec::new();
            for (bits, prefix, owner) in networks {
                // Few distinct leading bits, so that networks nest.
                let network = AllowedIp::new(IpAddr::V4((bits & 0x0300_ffff).into()), prefix).unwrap();
                table.insert(network, owner);
                list.retain(|(other, _)| *other != network);
                list.push((network, owner));
            }
            for (network, owner) in list.extract_if(.., |(_, owner)| *owner == removed) {
                table.remove(network, owner);
            }
            for bits in probes {
                let address = IpAddr::V4((bits & 0x0300_ffff).into());
                let best = list
                    .iter()
                    .filter(|(network, _)| AllowedIp::new(address, network.prefix) == Ok(*network))
                    .max_by_key(|(network, _)| network.prefix)
                    .map(|(_, owner)| *owner);
                prop_assert_eq!(table.lookup(address), best);
            }
        }
    }

    fn table(networks: &[(&str, usize)]) -> AllowedIps<usize> {
        let mut table = AllowedIps::new();
        for (network, owner) in networks {
            table.insert(network.parse().unwrap(), *owner);
        }
        table
    }
}
