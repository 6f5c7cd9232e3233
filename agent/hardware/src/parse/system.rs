//! Small texts about the system: `os-release`, `/proc/meminfo`.

use super::{field, one_line};

/// Name and version from an `os-release` file: `PRETTY_NAME`, else `NAME` and `VERSION_ID`.
/// The format is that of os-release(5): shell assignments, quoted or not.
pub(crate) fn os_release(text: &str) -> Option<String> {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
            .map(unquote)
            .and_then(|value| one_line(&value))
    };
    value("PRETTY_NAME").or_else(|| {
        let name = value("NAME")?;
        Some(value("VERSION_ID").map_or_else(|| name.clone(), |version| format!("{name} {version}")))
    })
}

/// Takes shell quotes and the backslashes inside them off.
fn unquote(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(value);
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

/// `MemTotal` of `/proc/meminfo` in MiB; the file counts in units of 1024 bytes and calls them kB.
pub(crate) fn memory_mib(text: &str) -> Option<u64> {
    let kib: u64 = field(text, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    (kib > 0).then_some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_unquoted() {
        assert_eq!(
            os_release("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert_eq!(
            os_release("NAME='My \\'OS'\nVERSION_ID=3").as_deref(),
            Some("My 'OS 3")
        );
        assert_eq!(os_release("NAME=Arch\n").as_deref(), Some("Arch"));
    }

    #[test]
    fn os_release_without_names_is_none() {
        for text in [
            "",
            "PRETTY_NAME=\nVERSION_ID=3\n",
            "PRETTY_NAME \"x\"",
            "\0\0=\0",
            "PRETTY_NAME=\"\"",
        ] {
            assert_eq!(os_release(text), None, "{text:?}");
        }
        assert_eq!(os_release("PRETTY_NAME=\"half\\").as_deref(), Some("\"half"));
    }

    #[test]
    fn memory_is_in_mib() {
        assert_eq!(
            memory_mib("MemTotal:       32614876 kB\nMemFree: 1 kB\n"),
            Some(31850)
        );
        for text in [
            "",
            "MemTotal: kB",
            "MemTotal: -5 kB",
            "MemTotal: 0 kB",
            "MemTotal: 99999999999999999999 kB",
        ] {
            assert_eq!(memory_mib(text), None, "{text:?}");
        }
    }
}
