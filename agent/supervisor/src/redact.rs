//! Taking secrets out of a child's output before it goes anywhere.
//!
//! A secret may stand in a line as it is, inside a JSON string (with `"` and `\` escaped, and by Go's encoder also `<`, `>` and
//! `&`), or in a URL (percent-encoded); all of these are looked for. Other encodings are not.

use std::fmt;

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};

/// What stands in a secret's place.
pub const REDACTED: &str = "[redacted]";

/// Shorter ones protect nothing, and taking them out would tear ordinary words apart.
const MIN_SECRET_BYTES: usize = 4;

/// Knows the secrets of one child.
pub struct Redactor {
    /// Every form of every secret, the longest first, so that no secret is torn by one that it contains.
    forms: Vec<Zeroizing<String>>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor")
            .field("forms", &self.forms.len())
            .finish()
    }
}

impl Redactor {
    /// For the given secrets; those below 4 bytes are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a SecretString>) -> Self {
        let mut forms: Vec<Zeroizing<String>> = Vec::new();
        for secret in secrets {
            let secret = secret.expose_secret();
            if secret.len() < MIN_SECRET_BYTES {
                continue;
            }
            for form in [
                secret.to_owned(),
                json(secret, false),
                json(secret, true),
                percent(secret),
            ] {
                let form = Zeroizing::new(form);
                if !forms.contains(&form) {
                    forms.push(form);
                }
            }
        }
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        Self { forms }
    }

    /// Whether a secret stands in the text.
    pub fn finds(&self, text: &str) -> bool {
        self.forms.iter().any(|form| text.contains(form.as_str()))
    }

    /// The text without the secrets. `cut` says that the text goes on after its end: then the beginning of a
    /// secret at its end is taken away too.
    pub fn apply(&self, mut text: String, cut: bool) -> String {
        for form in &self.forms {
            if text.contains(form.as_str()) {
                text = text.replace(form.as_str(), REDACTED);
            }
        }
        if cut {
            let beginning = self
                .forms
                .iter()
                .map(|form| overlap(&text, form))
                .max()
                .unwrap_or(0);
            text.truncate(text.len() - beginning);
        }
        text
    }
}

/// How many bytes at the end of `text` are the beginning of `form`.
fn overlap(text: &str, form: &str) -> usize {
    let ends = form
        .char_indices()
        .map(|(at, _)| at)
        .skip(1)
        .filter(|at| *at <= text.len());
    ends.filter(|at| text.ends_with(&form[..*at])).max().unwrap_or(0)
}

/// The inside of a JSON string.
fn json(secret: &str, html: bool) -> String {
    let quoted = serde_json::Value::from(secret).to_string();
    let inside = quoted[1..quoted.len() - 1].to_owned();
    if html {
        // encoding/json of Go's standard library escapes these three unless told not to.
        inside
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
    } else {
        inside
    }
}

/// RFC 3986: all but the unreserved characters are encoded.
fn percent(secret: &str) -> String {
    use std::fmt::Write as _;

    let mut encoded = String::with_capacity(secret.len() * 3);
    for byte in secret.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_taken_out() {
        let redactor = redactor(&[r#"a<"b"&c d"#]);
        for text in [
            r#"psk a<"b"&c d here"#,
            r#"{"error":"a<\"b\"&c d"}"#,
            r#"{"error":"a\u003c\"b\"\u0026c d"}"#,
            "GET /api?key=a%3C%22b%22%26c%20d",
        ] {
            assert!(redactor.finds(text), "{text}");
            let clean = redactor.apply(text.to_owned(), false);
            assert!(clean.contains(REDACTED), "{clean}");
            assert!(!redactor.finds(&clean), "{clean}");
        }
    }

    #[test]
    fn longer_secret_wins_over_the_one_it_contains() {
        let redactor = redactor(&["abcd", "abcdefgh"]);
        assert_eq!(
            redactor.apply("x abcdefgh abcd".to_owned(), false),
            "x [redacted] [redacted]"
        );
    }

    #[test]
    fn beginning_of_a_secret_at_a_cut_is_taken_away() {
        let redactor = redactor(&["süßes-geheimnis"]);
        assert_eq!(redactor.apply("line süßes-ge".to_owned(), true), "line ");
        assert_eq!(redactor.apply("line süßes-ge".to_owned(), false), "line süßes-ge");
        assert_eq!(
            redactor.apply("line süßes-geheimnis".to_owned(), true),
            "line [redacted]"
        );
    }

    #[test]
    fn short_secrets_do_not_tear_words_apart() {
        assert_eq!(
            redactor(&["", "sta"]).apply("starting".to_owned(), true),
            "starting"
        );
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", redactor(&["hunter22"])), "Redactor { forms: 1 }");
    }

    fn redactor(secrets: &[&str]) -> Redactor {
        let secrets: Vec<SecretString> = secrets.iter().copied().map(SecretString::from).collect();
        Redactor::new(&secrets)
    }
}
