//! Command lines to paste into a shell.

use std::ffi::OsStr;

/// `words` as one line, each quoted where a shell would read it as something else.
pub(crate) fn line<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> String {
    let words: Vec<String> = words
        .into_iter()
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::Command;

    use super::line;

    #[test]
    fn a_shell_reads_the_words_as_they_were() {
        let words = ["/tmp/a b/orfe", "it's", "$HOME", "", "plain", "*"];
        let line = line(words.map(OsStr::new));
        assert!(
            line.starts_with("'/tmp/a b/orfe' ") && line.ends_with(" plain '*'"),
            "{line}"
        );

        let said = Command::new("sh")
            .args(["-c", &format!("printf '%s\\n' {line}")])
            .output()
            .unwrap();

        let said = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said.lines().collect::<Vec<_>>(), words);
    }
}
