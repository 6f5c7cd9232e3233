//! The value for a tag from a GPU's name: `NVIDIA GeForce RTX 4090` is `nvidia-rtx4090`.
//!
//! One card has several names: the driver says `NVIDIA H100 80GB HBM3`, the PCI database `GH100 [H100 SXM5 80GB]`.
//! A tag must not change when a driver is loaded, so words for brand, memory and socket are left out and the rest
//! is joined. Only the form factor stays, at the end, because a laptop's RTX 4090 is another chip.

use crate::facts::Vendor;

/// Longest value, in bytes; all of them are ASCII.
const TAG_VALUE_LIMIT: usize = 48;

/// Words that do not tell cards apart.
const FILLER: &[&str] = &[
    "nvidia",
    "geforce",
    "tesla",
    "corporation",
    "amd",
    "ati",
    "radeon",
    "instinct",
    "intel",
    "r",
    "tm",
    "graphics",
    "gpu",
    "generation",
    "series",
    "pcie",
    "nvl",
    "edition",
    "workstation",
];

/// Words for the chip that is made for laptops.
const LAPTOP: &[&str] = &["laptop", "mobile", "notebook"];

/// The value for a GPU. `model` is a name from the driver, the table, or the PCI database; where nothing usable is in
/// it, or it names several cards, the value is vendor and device id: `nvidia-2684`.
pub(crate) fn value(vendor: Vendor, device: u16, model: &str) -> String {
    let name = card_name(model).unwrap_or_else(|| format!("{device:04x}"));
    let mut value = format!("{vendor}-{name}");
    value.truncate(TAG_VALUE_LIMIT);
    value.trim_end_matches(['-', '.']).to_owned()
}

/// The card's own name. In the PCI database that is what stands in brackets behind the chip's.
fn card_name(model: &str) -> Option<String> {
    let bracketed = model
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(inside, _)| inside);
    let mut alternatives = bracketed.unwrap_or(model).split('/').map(Parts::of);
    let first = alternatives.next()?;
    // "RTX 3070 Mobile / Max-Q" is one card, "RX 7900 XT/7900 XTX" is two.
    let several = alternatives.any(|other| !other.name.is_empty());
    (!several && !first.name.is_empty()).then(|| {
        if first.laptop {
            format!("{}-laptop", first.name)
        } else {
            first.name
        }
    })
}

/// A name taken apart.
struct Parts {
    name: String,
    laptop: bool,
}

impl Parts {
    fn of(text: &str) -> Self {
        let lower = text.to_lowercase().replace("max-q", "mobile");
        let words = lower
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '.')
            .filter(|word| !word.is_empty());
        let mut parts = Self {
            name: String::new(),
            laptop: false,
        };
        for word in words {
            if LAPTOP.contains(&word) {
                parts.laptop = true;
            } else if !FILLER.contains(&word) && !is_memory(word) && !is_socket(word) {
                parts.name.push_str(word);
            }
        }
        parts.name = parts.name.trim_matches('.').to_owned();
        parts
    }
}

/// `80gb`, `hbm3`, `hbm2e`.
fn is_memory(word: &str) -> bool {
    let size = word
        .strip_suffix("gb")
        .is_some_and(|size| !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit()));
    size || word.strip_prefix("hbm").is_some_and(|rest| rest.len() <= 2)
}

/// `sxm`, `sxm5`, `oam`.
fn is_socket(word: &str) -> bool {
    word == "oam" || word.strip_prefix("sxm").is_some_and(|rest| rest.len() <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(vendor: Vendor, model: &str, expected: &str) {
        assert_eq!(value(vendor, 0xabcd, model), expected, "{model:?}");
    }

    #[test]
    fn all_names_of_one_card_give_one_value() {
        for model in [
            "NVIDIA GeForce RTX 4090",
            "GeForce RTX 4090",
            "AD102 [GeForce RTX 4090]",
        ] {
            check(Vendor::Nvidia, model, "nvidia-rtx4090");
        }
        for model in [
            "NVIDIA H100 80GB HBM3",
            "H100 SXM5 80GB",
            "GH100 [H100 SXM5 80GB]",
            "NVIDIA H100 PCIe",
        ] {
            check(Vendor::Nvidia, model, "nvidia-h100");
        }
        for model in [
            "NVIDIA GeForce RTX 3050 Ti Laptop GPU",
            "GA107M [GeForce RTX 3050 Ti Mobile]",
        ] {
            check(Vendor::Nvidia, model, "nvidia-rtx3050ti-laptop");
        }
        check(
            Vendor::Nvidia,
            "GA104M [GeForce RTX 3070 Mobile / Max-Q]",
            "nvidia-rtx3070-laptop",
        );
    }

    #[test]
    fn names_of_every_vendor() {
        check(Vendor::Nvidia, "NVIDIA A100-SXM4-40GB", "nvidia-a100");
        check(Vendor::Nvidia, "Tesla T4", "nvidia-t4");
        check(
            Vendor::Nvidia,
            "NVIDIA RTX 6000 Ada Generation",
            "nvidia-rtx6000ada",
        );
        check(Vendor::Nvidia, "NVIDIA RTX A6000", "nvidia-rtxa6000");
        check(Vendor::Amd, "Instinct MI300X OAM", "amd-mi300x");
        check(Vendor::Amd, "Radeon RX 7900 Series", "amd-rx7900");
        check(Vendor::Amd, "Phoenix1", "amd-phoenix1");
        check(
            Vendor::Intel,
            "TigerLake-LP GT2 [Iris Xe Graphics]",
            "intel-irisxe",
        );
        check(Vendor::Intel, "Intel(R) UHD Graphics 620", "intel-uhd620");
        check(Vendor::Other(0x1ed5), "MTT S80", "pci-1ed5-mtts80");
    }

    #[test]
    fn a_name_for_several_cards_or_for_none_gives_the_id() {
        check(
            Vendor::Amd,
            "Navi 31 [Radeon RX 7900 XT/7900 XTX/7900M]",
            "amd-abcd",
        );
        for model in [
            "",
            "NVIDIA",
            "NVIDIA Graphics",
            "[]",
            "///",
            "\u{fffd}\u{202e}",
            "..",
            "日本",
        ] {
            check(Vendor::Nvidia, model, "nvidia-abcd");
        }
    }

    #[test]
    fn a_value_is_always_a_valid_tag_value() {
        for model in [
            &"Ä 9.".repeat(60),
            "A/B/[C",
            "x]y[z",
            "....a",
            "RTX\n4090\0",
            &"-".repeat(300),
        ] {
            let value = value(Vendor::Nvidia, 0x2684, model);
            assert!(value.len() <= TAG_VALUE_LIMIT, "{value}");
            assert!(
                value
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)),
                "{value}"
            );
            assert!(!value.ends_with(['-', '.']), "{value}");
        }
    }
}
