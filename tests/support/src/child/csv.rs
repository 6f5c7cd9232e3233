//! One record of comma-separated values, by the rules and with the errors of Go's `encoding/csv`, because the child's
//! tag options are read that way: spaces are kept, `"` quotes a whole field and is doubled inside it.

/// Reads the first record of `text`; an empty text is no fields.
pub(super) fn record(text: &str) -> Result<Vec<String>, String> {
    let line = text.lines().next().unwrap_or_default();
    let mut fields = Vec::new();
    if line.is_empty() {
        return Ok(fields);
    }
    let mut rest = line;
    loop {
        let column = line.len() - rest.len();
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted, column + 1)?,
            None => bare_field(rest, column)?,
        };
        fields.push(field);
        match after {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// `column` is the index of the field's first byte. Go counts columns in bytes from 1.
fn bare_field(rest: &str, column: usize) -> Result<(String, Option<&str>), String> {
    let (field, after) = match rest.split_once(',') {
        Some((field, after)) => (field, Some(after)),
        None => (rest, None),
    };
    match field.find('"') {
        Some(position) => Err(format!(
            "parse error on line 1, column {}: bare \" in non-quoted-field",
            column + position + 1
        )),
        None => Ok((field.to_owned(), after)),
    }
}

fn quoted_field(quoted: &str, column: usize) -> Result<(String, Option<&str>), String> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            return Err(format!(
                "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
                column + quoted.len() + 1
            ));
        };
        field.push_str(part);
        if let Some(doubled) = after.strip_prefix('"') {
            field.push('"');
            rest = doubled;
        } else if after.is_empty() {
            return Ok((field, None));
        } else if let Some(next) = after.strip_prefix(',') {
            return Ok((field, Some(next)));
        } else {
            let position = quoted.len() - after.len();
            return Err(format!(
                "parse error on line 1, column {}: extraneous or missing \" in quoted-field",
                column + position
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_and_quotes() {
        assert_eq!(record("os=linux,owner=lab").unwrap(), ["os=linux", "owner=lab"]);
        assert_eq!(
            record(r#""a=1,2","b=say ""hi""""#).unwrap(),
            ["a=1,2", "b=say \"hi\""]
        );
        assert_eq!(record(" a=b , c").unwrap(), [" a=b ", " c"]);
        assert_eq!(record("a,").unwrap(), ["a", ""]);
        assert!(record("").unwrap().is_empty());
    }

    #[test]
    fn says_where_a_quote_is_wrong() {
        assert_eq!(
            record("a=b\"c").unwrap_err(),
            "parse error on line 1, column 4: bare \" in non-quoted-field"
        );
        assert!(record("\"open").unwrap_err().contains("quoted-field"));
        assert!(record("\"a\"b").unwrap_err().contains("extraneous"));
    }
}
