//! Pure functions from the text of a file to a value. None of them fails loudly: what is not there or makes no
//! sense is `None`, and the probe that read the file says so.

pub(crate) mod cpuinfo;
pub(crate) mod gpu_table;
pub(crate) mod gpu_tag;
pub(crate) mod machine;
pub(crate) mod pci;
pub(crate) mod system;

/// Longest text that is kept of a name, in characters.
const NAME_LIMIT: usize = 128;

/// A name as one clean line: control characters are spaces, runs of white space are one, the length is bounded.
/// `None` when nothing is left.
pub(crate) fn one_line(text: &str) -> Option<String> {
    let spaced: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let line = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().take(NAME_LIMIT).collect();
    (!line.is_empty()).then_some(line)
}

/// The value of `key` in lines of the form `key : value`.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_bounded_line_without_control_characters() {
        assert_eq!(one_line("  a\tb\n\u{1b}[31mc \0"), Some("a b [31mc".into()));
        assert_eq!(one_line("\0\n \u{7f}"), None);
        assert_eq!(one_line(&"ä".repeat(1000)).unwrap().chars().count(), NAME_LIMIT);
    }

    #[test]
    fn a_field_is_found_by_its_whole_key() {
        let text = "Model number: 1\nModel: \t NVIDIA H100 \nno colon\nModel: second\n";
        assert_eq!(field(text, "Model"), Some("NVIDIA H100"));
        assert_eq!(field(text, "IRQ"), None);
    }
}
