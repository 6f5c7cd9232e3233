//! Configuration files in TOML, as both programs read them: what is wrong is told with its place, and tables are tables.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// What is wrong with the text of a configuration file. Line and column are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ConfigFileError {
    pub line: usize,
    /// In characters.
    pub column: usize,
    /// On one line.
    pub message: String,
}

/// Parses the text of a file. `words` are what the parser says in words of Rust or of its own, and how a person says it.
///
/// A list is never taken for a table: what is derived for a struct would take its values in the order in which the source has them.
pub fn parse<'a, T: Deserialize<'a>>(text: &'a str, words: &[(&str, &str)]) -> Result<T, ConfigFileError> {
    let parsed =
        toml::de::Deserializer::parse(text).and_then(|document| T::deserialize(TablesAsTables(document)));
    parsed.map_err(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        ConfigFileError {
            line,
            column,
            message: words
                .iter()
                .fold(message, |message, (theirs, ours)| message.replace(theirs, ours)),
        }
    })
}

/// Line and column of a byte, each from 1; columns count characters.
pub fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// Around whatever of the parser may hold a struct further in, so that each is asked for by [`Table`].
struct TablesAsTables<T>(T);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for TablesAsTables<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Table(visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Table(visitor))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_seq(List(visitor))
    }

    /// What stands in a file is there; what does not is no value at all.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    // As the parser does: a value is what is written, whatever it is asked for as.
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct identifier ignored_any
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for TablesAsTables<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(TablesAsTables(deserializer))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for TablesAsTables<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(TablesAsTables(seed))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for TablesAsTables<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(TablesAsTables(seed))
    }
}

/// Takes a table and nothing else, and says of all else what `V` would have expected.
struct Table<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Table<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(TablesAsTables(map))
    }
}

/// The same for a list.
struct List<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for List<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(TablesAsTables(list))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use toml::Spanned;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, expecting = "lines")]
    struct File {
        one: Option<Inner>,
        #[serde(default)]
        many: Vec<Spanned<Inner>>,
        #[serde(default)]
        named: BTreeMap<String, Inner>,
        wrapped: Option<Wrapped>,
        word: Option<Word>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Wrapped(Inner);

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default, expecting = "a table")]
    struct Inner {
        numbers: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        On,
    }

    fn read(text: &str) -> Result<File, String> {
        parse(text, &[("sequence", "list")]).map_err(|error: ConfigFileError| error.to_string())
    }

    #[test]
    fn what_is_written_as_it_should_be_is_read() {
        let inner = |numbers: &[u8]| Inner {
            numbers: numbers.to_vec(),
        };
        let file = read(
            "word = \"on\"\none.numbers = [1, 2]\nwrapped = {}\n\
             [[many]]\nnumbers = [3]\n[[many]]\n[named.x]\nnumbers = [4]\n",
        )
        .unwrap();
        assert_eq!(file.one, Some(inner(&[1, 2])));
        let many: Vec<_> = file.many.into_iter().map(Spanned::into_inner).collect();
        assert_eq!(many, [inner(&[3]), inner(&[])]);
        assert_eq!(file.named["x"], inner(&[4]));
        assert_eq!(
            (file.wrapped, file.word),
            (Some(Wrapped(inner(&[]))), Some(Word::On))
        );
        assert_eq!(read(""), Ok(File::default()));
    }

    #[test]
    fn a_list_is_no_table_wherever_it_stands() {
        let refused = |place: &str| Err(format!("{place}: invalid type: list, expected a table"));
        for (text, place) in [
            ("one = []", "line 1, column 7"),
            ("one = [[1]]", "line 1, column 7"),
            ("[[one]]\nnumbers = [1]", "line 1, column 1"),
            ("many = [[[1]]]", "line 1, column 9"),
            ("many = [\n  {},\n  [],\n]", "line 3, column 3"),
            ("[named]\nx = [[1]]", "line 2, column 5"),
            ("wrapped = [[1]]", "line 1, column 11"),
        ] {
            assert_eq!(read(text), refused(place), "{text}");
        }
        let error = read("named = []").unwrap_err();
        assert!(
            error.starts_with("line 1, column 9: invalid type: list"),
            "{error}"
        );
    }

    #[test]
    fn mistakes_are_told_with_line_and_column_in_characters() {
        let text = "word = \"on\"\n[one] # größer\nnumbers = [\"größer\", 1]";
        assert!(read(text).unwrap_err().starts_with("line 3, column 12: "));
        assert!(read("a").unwrap_err().starts_with("line 1, column "));
        assert_eq!(place("größe\nß = x", 13), (2, 5));
    }
}
