//! Command lines to paste into a shell.

use std::ffi::OsStr;

/// `words`, each quoted where a shell would read it as something else.
pub(crate) fn words<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> Vec<String> {
    words
        .into_iter()
        .map(|word| quoted(&word.to_string_lossy()))
        .collect()
}

/// Quoted words in lines of at most `columns`, where none is longer; each line but the last ends in a backslash, so that a
/// shell reads them as one. A flag and its value stay together.
pub(crate) fn folded(words: &[String], columns: usize) -> Vec<String> {
    let mut units: Vec<String> = Vec::new();
    for word in words {
        match units.last_mut() {
            Some(flag) if flag.starts_with("--") && !flag.contains(' ') => {
                flag.push(' ');
                flag.push_str(word);
            }
            _ => units.push(word.clone()),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    let units_count = units.len();
    for (index, unit) in units.into_iter().enumerate() {
        let backslash = if index + 1 == units_count { 0 } else { " \\".len() };
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + unit.chars().count() + backslash <= columns => {
                line.push(' ');
                line.push_str(&unit);
            }
            last => {
                if let Some(line) = last {
                    line.push_str(" \\");
                }
                lines.push(unit);
            }
        }
    }
    lines
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

    use super::{folded, words};

    #[test]
    fn a_shell_reads_the_words_as_they_were() {
        let given = ["/tmp/a b/orfe", "it's", "$HOME", "", "plain", "*"];
        let quoted = words(given.map(OsStr::new));
        let one = folded(&quoted, 80);
        assert_eq!(one, [r"'/tmp/a b/orfe' 'it'\''s' '$HOME' '' plain '*'"]);
        let several = folded(&quoted, 20);
        assert_eq!(several.len(), 3, "{several:?}");

        for lines in [one, several] {
            let said = Command::new("sh")
                .args(["-c", &format!("printf '%s\\n' {}", lines.join("\n"))])
                .output()
                .unwrap();

            let said = String::from_utf8(said.stdout).unwrap();
            assert_eq!(said.lines().collect::<Vec<_>>(), given);
        }
    }
}
