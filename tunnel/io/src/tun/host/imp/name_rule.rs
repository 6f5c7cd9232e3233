//! Rules of Windows' name resolution policy table (NRPT): which name servers are asked for which names. Each is a key in the registry,
//! and these are its contents.

use std::net::IpAddr;

use crate::tun::host::SplitDns;

/// Where the rules of this machine stand, below `HKEY_LOCAL_MACHINE`.
const RULES: &str = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig";

/// The system takes 50 names in a rule, and each domain is two: itself, and what is below.
const DOMAINS_IN_RULE: usize = 25;
/// `ConfigOptions`: the rule names servers, and nothing else (no DNSSEC, no `DirectAccess`).
const NAMES_SERVERS: u32 = 8;
/// `Version` of the table since Windows 8.
const VERSION: u32 = 2;

/// What a value of the registry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(u32),
    Text(String),
    Texts(Vec<String>),
}

impl Value {
    /// `REG_DWORD`, `REG_SZ` or `REG_MULTI_SZ`.
    pub(super) const fn kind(&self) -> u32 {
        match self {
            Self::Number(_) => 4,
            Self::Text(_) => 1,
            Self::Texts(_) => 7,
        }
    }

    /// As it is stored: little-endian, texts in UTF-16 with a closing zero, several with another one behind the last.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let wide = |text: &str| -> Vec<u8> {
            let units = text.encode_utf16().chain([0]);
            units.flat_map(u16::to_le_bytes).collect()
        };
        match self {
            Self::Number(number) => number.to_le_bytes().to_vec(),
            Self::Text(text) => wide(text),
            Self::Texts(texts) => {
                let mut bytes: Vec<u8> = texts.iter().flat_map(|text| wide(text)).collect();
                bytes.extend([0, 0]);
                bytes
            }
        }
    }
}

/// The key of our rule with this number.
pub(super) fn key(number: u16) -> String {
    format!(r"{RULES}\{{6F726665-7475-4E00-8D5A-C1B293E4{number:04X}}}")
}

/// The values of each rule, by its number.
pub(super) fn rules(dns: &SplitDns) -> impl Iterator<Item = (u16, Vec<(&'static str, Value)>)> {
    let servers: Vec<String> = dns.servers.iter().map(IpAddr::to_string).collect();
    let servers = servers.join(";");
    let groups = dns.domains.chunks(DOMAINS_IN_RULE);
    (0..=u16::MAX).zip(groups).map(move |(number, domains)| {
        // Without a dot in front it is that name alone, with one what is below.
        let names = domains
            .iter()
            .flat_map(|domain| [domain.clone(), format!(".{domain}")])
            .collect();
        let values = vec![
            ("Version", Value::Number(VERSION)),
            ("Name", Value::Texts(names)),
            ("GenericDNSServers", Value::Text(servers.clone())),
            ("ConfigOptions", Value::Number(NAMES_SERVERS)),
            (
                "Comment",
                Value::Text("Made by orfe for its tunnel, and removed with it".to_owned()),
            ),
        ];
        (number, values)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(domains: usize) -> SplitDns {
        SplitDns {
            servers: vec!["100.127.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            domains: (0..domains).map(|number| format!("n{number}.example")).collect(),
        }
    }

    #[test]
    fn a_rule_has_the_domain_what_is_below_and_the_servers() {
        let dns = dns(1);
        let (number, values) = rules(&dns).next().unwrap();
        assert_eq!(number, 0);
        let of = |name: &str| values.iter().find(|(key, _)| *key == name).unwrap().1.clone();
        assert_eq!(
            of("Name"),
            Value::Texts(vec!["n0.example".to_owned(), ".n0.example".to_owned()])
        );
        assert_eq!(
            of("GenericDNSServers"),
            Value::Text("100.127.0.1;fd00::1".to_owned())
        );
        assert_eq!(
            (of("Version"), of("ConfigOptions")),
            (Value::Number(2), Value::Number(8))
        );
    }

    #[test]
    fn many_domains_are_several_rules_with_keys_of_their_own() {
        let numbers = |domains| rules(&dns(domains)).map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!(numbers(25), [0]);
        assert_eq!(numbers(26), [0, 1]);
        assert_eq!(numbers(75), [0, 1, 2]);
        assert!(key(1).ends_with(r"\DnsPolicyConfig\{6F726665-7475-4E00-8D5A-C1B293E40001}"));
        assert_ne!(key(1), key(2));
    }

    #[test]
    fn values_are_stored_as_the_registry_has_them() {
        assert_eq!(Value::Number(8).bytes(), [8, 0, 0, 0]);
        assert_eq!(Value::Text("a".to_owned()).bytes(), [b'a', 0, 0, 0]);
        let texts = Value::Texts(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(texts.bytes(), [b'a', 0, 0, 0, b'b', 0, 0, 0, 0, 0]);
        assert_eq!(
            [Value::Number(0), Value::Text(String::new()), texts].map(|value| value.kind()),
            [4, 1, 7]
        );
    }
}
