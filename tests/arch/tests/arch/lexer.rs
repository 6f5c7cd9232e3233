//! Just enough of Rust's grammar to tell code from comments, strings and tests.
//!
//! [`mask`] blanks comments and the insides of literals, [`tokens`] cuts what is left, [`test_ranges`] finds the items
//! that are compiled for tests only. All keep byte offsets, so that a finding has its line.

use std::ops::Range;

/// A word, a number, `::`, or one other character, with its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) at: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

/// The source with comments and literals replaced by spaces, line for line and byte for byte.
pub(crate) fn mask(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut masked = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let blank = literal_or_comment(bytes, at);
        for byte in &mut masked[at..at + blank] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += if blank > 0 {
            blank
        } else {
            word_length(&bytes[at..]).max(1)
        };
    }
    // Only ASCII was put in, and only in place of whole literals and comments.
    String::from_utf8_lossy(&masked).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn word_length(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| is_word(**byte)).count()
}

/// Length of the comment or literal that starts at `at`; 0 when none does.
fn literal_or_comment(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return rest.iter().take_while(|byte| **byte != b'\n').count();
    }
    if rest.starts_with(b"/*") {
        return block_comment(rest);
    }
    if rest.starts_with(b"'") {
        return char_literal(rest);
    }
    // `b`, `c` and `r` before a quote belong to the literal.
    let prefix = word_length(rest);
    let is_prefix = matches!(&rest[..prefix], b"" | b"b" | b"c" | b"r" | b"br" | b"cr");
    let is_raw = is_prefix && rest[..prefix].ends_with(b"r");
    match rest.get(prefix) {
        Some(b'"' | b'#') if is_raw => raw_string(rest, prefix),
        Some(b'"') if is_prefix => prefix + quoted(&rest[prefix..], b'"'),
        Some(b'\'') if &rest[..prefix] == b"b" => 1 + quoted(&rest[1..], b'\''),
        _ => 0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// `'x'` or `'\n'`; a lifetime such as `'a` is no literal.
fn char_literal(rest: &[u8]) -> usize {
    let first = String::from_utf8_lossy(&rest[1..rest.len().min(5)])
        .chars()
        .next()
        .map_or(0, char::len_utf8);
    match rest.get(1) {
        Some(b'\\') => quoted(rest, b'\''),
        _ if rest.get(1 + first) == Some(&b'\'') => first + 2,
        _ => 0,
    }
}

/// A literal from its opening quote to its closing one, or to the end.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"` or `r#"…"#`; 0 for a raw identifier such as `r#type`.
fn raw_string(rest: &[u8], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let start = prefix + hashes;
    if rest.get(start) != Some(&b'"') {
        return 0;
    }
    let close = [b"\"", "#".repeat(hashes).as_bytes()].concat();
    let inside = &rest[start + 1..];
    let length = inside.windows(close.len()).position(|window| window == close);
    length.map_or(rest.len(), |length| start + 1 + length + close.len())
}

/// Cuts masked source.
pub(crate) fn tokens(masked: &str) -> Vec<Token<'_>> {
    let bytes = masked.as_bytes();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at].is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let length = match word_length(&bytes[at..]) {
            0 if bytes[at..].starts_with(b"::") => 2,
            0 => 1,
            word => word,
        };
        tokens.push(Token {
            text: &masked[at..at + length],
            at,
        });
        at += length;
    }
    tokens
}

/// What is compiled for tests only.
#[derive(Debug, Default)]
pub(crate) struct TestCode {
    /// Byte ranges in the file.
    pub(crate) ranges: Vec<Range<usize>>,
    /// Names of modules in files of their own: `#[cfg(test)] mod name;`.
    pub(crate) modules: Vec<String>,
}

/// Finds items under `#[cfg(test)]` and its relatives, and test functions.
pub(crate) fn test_code(tokens: &[Token<'_>]) -> TestCode {
    let mut found = TestCode::default();
    let mut at = 0;
    while at < tokens.len() {
        let Some((attribute, is_inner, after)) = attribute_at(tokens, at) else {
            at += 1;
            continue;
        };
        if !marks_test(attribute) {
            at = after;
            continue;
        }
        if is_inner {
            found.ranges.push(0..usize::MAX);
            break;
        }
        let end = item_end(tokens, after);
        if let Some(name) = module_in_own_file(&tokens[after..end]) {
            found.modules.push(name);
        }
        let last = tokens[..end].last().map_or(usize::MAX, Token::end);
        found.ranges.push(tokens[at].at..last);
        at = end;
    }
    found
}

/// The inside of `#[…]` or `#![…]` at a token, whether it is the inner kind, and the index behind it.
fn attribute_at<'t, 's>(tokens: &'t [Token<'s>], at: usize) -> Option<(&'t [Token<'s>], bool, usize)> {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text);
    if text(at) != "#" {
        return None;
    }
    let is_inner = text(at + 1) == "!";
    let open = at + 1 + usize::from(is_inner);
    if text(open) != "[" {
        return None;
    }
    let close = matching(tokens, open);
    Some((&tokens[open + 1..close], is_inner, (close + 1).min(tokens.len())))
}

/// The index of the bracket that closes the one at `open`, or the end.
fn matching(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 1 => return index,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// `test`, `tokio::test`, or a `cfg` that holds in tests only.
fn marks_test(attribute: &[Token<'_>]) -> bool {
    if attribute.first().is_some_and(|token| token.text == "cfg") {
        return attribute.len() > 3 && requires_test(&attribute[2..attribute.len() - 1]);
    }
    let path: Vec<&str> = attribute
        .iter()
        .map(|token| token.text)
        .take_while(|text| *text != "(")
        .collect();
    path.last() == Some(&"test")
}

/// Whether a `cfg` predicate can hold only when `test` does.
fn requires_test(predicate: &[Token<'_>]) -> bool {
    let Some(first) = predicate.first() else {
        return false;
    };
    if predicate.get(1).is_none_or(|token| token.text != "(") {
        return first.text == "test" && predicate.len() == 1;
    }
    let inside = &predicate[2..matching(predicate, 1)];
    let mut parts = split_at_commas(inside)
        .into_iter()
        .filter(|part| !part.is_empty())
        .peekable();
    match first.text {
        "all" => parts.any(requires_test),
        "any" => parts.peek().is_some() && parts.all(requires_test),
        _ => false,
    }
}

fn split_at_commas<'t, 's>(tokens: &'t [Token<'s>]) -> Vec<&'t [Token<'s>]> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while at < tokens.len() {
        match tokens[at].text {
            "(" => at = matching(tokens, at),
            "," => {
                parts.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(&tokens[start.min(tokens.len())..]);
    parts
}

const ITEM_WORDS: &[&str] = &[
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules",
    "mod",
    "pub",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "unsafe",
    "use",
];

/// The index behind the item, field, variant or statement that starts at `at`, its further attributes included.
fn item_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    while let Some((_, _, after)) = attribute_at(tokens, at) {
        at = after;
    }
    let is_item = tokens
        .get(at)
        .is_some_and(|token| ITEM_WORDS.contains(&token.text));
    while at < tokens.len() {
        match tokens[at].text {
            "(" | "[" => at = matching(tokens, at),
            "{" => return (matching(tokens, at) + 1).min(tokens.len()),
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            ")" | "]" | "}" => return at,
            _ => {}
        }
        at += 1;
    }
    tokens.len()
}

/// The name in `mod name;`. A module with a `#[path]` is left out: where its file stands is not known here.
fn module_in_own_file(item: &[Token<'_>]) -> Option<String> {
    let texts: Vec<&str> = item.iter().map(|token| token.text).collect();
    match texts.as_slice() {
        ["mod", name, ";"] | ["pub", "mod", name, ";"] | ["pub", "(", _, ")", "mod", name, ";"] => {
            Some((*name).to_owned())
        }
        _ => None,
    }
}

mod tests {
    use super::*;

    /// The words that are left when test code is taken out.
    fn words_outside_tests(source: &str) -> Vec<String> {
        let masked = mask(source);
        let tokens = tokens(&masked);
        let tests = test_code(&tokens);
        let outside = tokens
            .iter()
            .filter(|token| !tests.ranges.iter().any(|range| range.contains(&token.at)));
        outside
            .filter(|token| is_word(token.text.as_bytes()[0]))
            .map(|token| token.text.to_owned())
            .collect()
    }

    #[test]
    fn comments_and_literals_are_blanked_in_place() {
        for (source, expected) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("a \"b \\\" c\" d", "a          d"),
            ("a b\"x\" br#\"y\"z\"# cr\"\" d", "a                     d"),
            ("ab\"x\" d", "ab    d"),
            ("r\"\\\" a", "     a"),
            ("'a' 'b 'c: '\\'' '\"' d", "    'b 'c:          d"),
            ("r#type r#\"x\"# e", "r#type        e"),
            ("for_r\"x\" f", "for_r    f"),
            ("\"open", "     "),
            ("/* open", "       "),
            ("'ä' ö \"ü\"", "     ö     "),
        ] {
            assert_eq!(mask(source).len(), source.len(), "{source}");
            assert_eq!(mask(source), expected, "{source}");
        }
    }

    #[test]
    fn tokens_have_their_places() {
        let found: Vec<(&str, usize)> = tokens("a::b_1 :c")
            .iter()
            .map(|token| (token.text, token.at))
            .collect();
        assert_eq!(found, [("a", 0), ("::", 1), ("b_1", 3), (":", 7), ("c", 8)]);
    }

    #[test]
    fn test_items_are_found() {
        for (source, left) in [
            (
                "fn a() {} #[cfg(test)] mod t { fn b() { {} } } fn c() {}",
                &["fn", "a", "fn", "c"][..],
            ),
            ("#[cfg(test)] #[allow(x)] use a::{b, c}; fn d() {}", &["fn", "d"]),
            (
                "#[cfg(all(unix, test))] fn f<A, B>(a: [u8; 3]) -> B { x } fn d() {}",
                &["fn", "d"],
            ),
            (
                "struct S { a: u8, #[cfg(test)] b: Vec<u8>, c: u8 }",
                &["struct", "S", "a", "u8", "c", "u8"],
            ),
            (
                "struct S { #[cfg(test)] b: u8 } fn d() {}",
                &["struct", "S", "fn", "d"],
            ),
            (
                "#[test] fn f() {} #[tokio::test(flavor = 1)] async fn g() {} fn d() {}",
                &["fn", "d"],
            ),
            ("#![cfg(test)] fn f() {}", &[]),
        ] {
            assert_eq!(words_outside_tests(source), left, "{source}");
        }
    }

    #[test]
    fn other_conditions_are_not_tests() {
        for condition in [
            "not(test)",
            "any(test, unix)",
            "feature = \"test\"",
            "all(unix)",
            "any()",
            "testing",
            "",
        ] {
            let words = words_outside_tests(&format!("#[cfg({condition})] fn seen() {{}}"));
            assert!(words.iter().any(|word| word == "seen"), "{condition}");
        }
        assert!(words_outside_tests("#[cfg(any(test, all(test, unix)))] fn gone() {}").is_empty());
    }

    #[test]
    fn broken_source_does_not_hang_or_panic() {
        for source in [
            "#",
            "#[",
            "#[cfg(",
            "#[cfg(test",
            "#[cfg(test)]",
            "#[cfg(test)] mod t {",
            "}}}",
            "b'",
            "r#",
            "'\\",
        ] {
            words_outside_tests(source);
        }
    }

    #[test]
    fn modules_in_their_own_files_are_named() {
        let masked = mask(
            "#[cfg(test)] mod a; #[cfg(test)] pub(crate) mod b; mod c; #[cfg(test)] #[path = \"x\"] mod d;",
        );
        assert_eq!(test_code(&tokens(&masked)).modules, ["a", "b"]);
    }
}
