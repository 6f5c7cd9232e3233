//! Flags and variables of `provisionerd start`: names, precedence (flag over variable over default; tags of both are
//! merged), and the complaints about what cannot be read.

use std::collections::BTreeMap;

use url::Url;

use super::{Environment, csv};

enum Kind {
    Text,
    Switch,
    List,
}

struct Row {
    name: &'static str,
    short: Option<char>,
    variable: Option<&'static str>,
    kind: Kind,
}

const fn row(name: &'static str, short: Option<char>, variable: Option<&'static str>, kind: Kind) -> Row {
    Row {
        name,
        short,
        variable,
        kind,
    }
}

/// All options of the command at v2.26.0 that a supervisor may meet. Those that the stand-in has no use for are taken
/// and ignored.
const ROWS: &[Row] = &[
    row("url", None, Some("CODER_URL"), Kind::Text),
    row("token", None, Some("CODER_SESSION_TOKEN"), Kind::Text),
    row("header", None, Some("CODER_HEADER"), Kind::List),
    row("global-config", None, Some("CODER_CONFIG_DIR"), Kind::Text),
    row(
        "no-version-warning",
        None,
        Some("CODER_NO_VERSION_WARNING"),
        Kind::Switch,
    ),
    row(
        "no-feature-warning",
        None,
        Some("CODER_NO_FEATURE_WARNING"),
        Kind::Switch,
    ),
    row("cache-dir", Some('c'), Some("CODER_CACHE_DIRECTORY"), Kind::Text),
    row("tag", Some('t'), Some("CODER_PROVISIONERD_TAGS"), Kind::List),
    row("psk", None, Some("CODER_PROVISIONER_DAEMON_PSK"), Kind::Text),
    row("key", None, Some("CODER_PROVISIONER_DAEMON_KEY"), Kind::Text),
    row("name", None, Some("CODER_PROVISIONER_DAEMON_NAME"), Kind::Text),
    row("org", Some('O'), Some("CODER_ORGANIZATION"), Kind::Text),
    row(
        "verbose",
        None,
        Some("CODER_PROVISIONER_DAEMON_VERBOSE"),
        Kind::Switch,
    ),
    row(
        "log-human",
        None,
        Some("CODER_PROVISIONER_DAEMON_LOGGING_HUMAN"),
        Kind::Text,
    ),
    row(
        "log-json",
        None,
        Some("CODER_PROVISIONER_DAEMON_LOGGING_JSON"),
        Kind::Text,
    ),
    row(
        "log-stackdriver",
        None,
        Some("CODER_PROVISIONER_DAEMON_LOGGING_STACKDRIVER"),
        Kind::Text,
    ),
    row(
        "log-filter",
        None,
        Some("CODER_PROVISIONER_DAEMON_LOG_FILTER"),
        Kind::List,
    ),
    row(
        "prometheus-enable",
        None,
        Some("CODER_PROMETHEUS_ENABLE"),
        Kind::Switch,
    ),
    row(
        "prometheus-address",
        None,
        Some("CODER_PROMETHEUS_ADDRESS"),
        Kind::Text,
    ),
    row(
        "poll-interval",
        None,
        Some("CODER_PROVISIONERD_POLL_INTERVAL"),
        Kind::Text,
    ),
    row(
        "poll-jitter",
        None,
        Some("CODER_PROVISIONERD_POLL_JITTER"),
        Kind::Text,
    ),
];

/// Where a value came from, as the telemetry header names it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Environment,
    Flag,
}

struct Given {
    values: Vec<String>,
    source: Source,
}

/// What was asked for. No Debug: it holds the credential.
pub(super) struct Options {
    pub(super) command: String,
    pub(super) url: Option<Url>,
    pub(super) token: Option<String>,
    pub(super) cache_dir: Option<String>,
    /// `key=value` texts, variable first, then flags; not yet looked into.
    pub(super) tags: Vec<String>,
    pub(super) psk: Option<String>,
    pub(super) psk_source: Option<Source>,
    pub(super) key: Option<String>,
    pub(super) name: Option<String>,
    pub(super) org: Option<String>,
    pub(super) verbose: bool,
    pub(super) log_human: String,
    pub(super) log_json: String,
    /// The address of the metrics listener, if one is wanted.
    pub(super) prometheus: Option<String>,
    /// Option names and where they came from, in the order of the telemetry header.
    pub(super) telemetry: Vec<(&'static str, Source)>,
}

/// The raw lines that the real program prints before it ends with 1.
pub(super) struct ParseError(pub(super) Vec<String>);

type GivenByName = BTreeMap<&'static str, Given>;

impl Options {
    pub(super) fn parse(
        command: &str,
        arguments: &[String],
        environment: &Environment,
    ) -> Result<Self, ParseError> {
        let mut given = GivenByName::new();
        let mut url = None;
        let mut problems = Vec::new();
        for row in ROWS {
            if let Err(problem) = take_variable(row, environment, &mut given) {
                problems.push(format!("\t* parse {:?}: {problem}", row.name));
            }
        }
        if let Some(text) = given.get("url").and_then(|given| given.values.first()) {
            match parse_url(text) {
                Ok(parsed) => url = Some(parsed),
                Err(problem) => problems.push(format!("\t* parse \"url\": {problem}")),
            }
        }
        if !problems.is_empty() {
            let noun = if problems.len() == 1 { "error" } else { "errors" };
            let mut lines = vec![format!("parsing env: {} {noun} occurred:", problems.len())];
            lines.append(&mut problems);
            lines.extend([String::new(), String::new()]);
            return Err(ParseError(lines));
        }
        take_flags(&arguments[2..], &mut given)
            .and_then(
                |()| match given.get("url").filter(|given| given.source == Source::Flag) {
                    Some(flag) => parse_url(&flag.values[0]).map(|parsed| url = Some(parsed)),
                    None => Ok(()),
                },
            )
            .map_err(|problem| {
                let words = arguments.join(" ");
                ParseError(vec![format!(
                    "parsing flags ([{words}]) for {command:?}: {problem}"
                )])
            })?;
        Ok(Self::from_given(command, url, &given))
    }

    fn from_given(command: &str, url: Option<Url>, given: &GivenByName) -> Self {
        let text = |name: &str| {
            given
                .get(name)
                .and_then(|given| given.values.last())
                .filter(|value| !value.is_empty())
                .cloned()
        };
        let switch = |name: &str| text(name).is_some_and(|value| value == "true");
        let with_default = |name: &str, default: &str| {
            given
                .get(name)
                .and_then(|given| given.values.last())
                .map_or(default, String::as_str)
                .to_owned()
        };
        let mut telemetry: Vec<(&'static str, Source)> =
            given.iter().map(|(name, given)| (*name, given.source)).collect();
        // The address is an option of the whole program and comes before the command's own, which are sorted.
        telemetry.sort_by_key(|(name, _)| (*name != "url", *name));
        Self {
            command: command.to_owned(),
            url,
            token: text("token"),
            cache_dir: text("cache-dir"),
            tags: given
                .get("tag")
                .map(|given| given.values.clone())
                .unwrap_or_default(),
            psk: text("psk"),
            psk_source: given.get("psk").map(|given| given.source),
            key: text("key"),
            name: text("name"),
            org: text("org"),
            verbose: switch("verbose") || given.contains_key("log-filter"),
            log_human: with_default("log-human", "/dev/stderr"),
            log_json: with_default("log-json", ""),
            prometheus: switch("prometheus-enable")
                .then(|| with_default("prometheus-address", "127.0.0.1:2112")),
            telemetry,
        }
    }
}

/// An empty variable counts as none.
fn take_variable(row: &Row, environment: &Environment, given: &mut GivenByName) -> Result<(), String> {
    let value = row.variable.and_then(|variable| environment.get(variable));
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(());
    };
    let values = read(&row.kind, value)?;
    given.insert(
        row.name,
        Given {
            values,
            source: Source::Environment,
        },
    );
    Ok(())
}

fn take_flags(words: &[String], given: &mut GivenByName) -> Result<(), String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (row, spelled, attached) = find_flag(word)?;
        let value = match (attached, &row.kind) {
            (Some(value), _) => value.to_owned(),
            (None, Kind::Switch) => "true".to_owned(),
            (None, _) => words
                .next()
                .ok_or_else(|| format!("flag needs an argument: {spelled}"))?
                .clone(),
        };
        let mut values = read(&row.kind, &value).map_err(|problem| {
            format!(
                "invalid argument {value:?} for {:?} flag: {problem}",
                format!("--{}", row.name)
            )
        })?;
        match given.get_mut(row.name) {
            // Lists of variable and flags are merged, texts are overridden.
            Some(known) if matches!(row.kind, Kind::List) => {
                known.values.append(&mut values);
                known.source = Source::Flag;
            }
            _ => {
                given.insert(
                    row.name,
                    Given {
                        values,
                        source: Source::Flag,
                    },
                );
            }
        }
    }
    Ok(())
}

/// The option of a word, the flag as it was spelled, and a value attached with `=`.
fn find_flag(word: &str) -> Result<(&'static Row, &str, Option<&str>), String> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let row = ROWS.iter().find(|row| row.name == name);
        return row
            .map(|row| (row, word, value))
            .ok_or_else(|| format!("unknown flag: --{name}"));
    }
    let mut letters = word.strip_prefix('-').unwrap_or_default().chars();
    let Some(letter) = letters.next() else {
        return Err(format!("unrecognized argument {word:?}"));
    };
    let value = Some(letters.as_str()).filter(|rest| !rest.is_empty());
    let value = value.map(|rest| rest.strip_prefix('=').unwrap_or(rest));
    let row = ROWS.iter().find(|row| row.short == Some(letter));
    row.map(|row| (row, word, value))
        .ok_or_else(|| format!("unknown shorthand flag: {letter:?} in {word}"))
}

fn read(kind: &Kind, value: &str) -> Result<Vec<String>, String> {
    match kind {
        Kind::Text => Ok(vec![value.to_owned()]),
        Kind::List => csv::record(value),
        Kind::Switch => match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(vec!["true".to_owned()]),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(vec!["false".to_owned()]),
            _ => Err(format!("strconv.ParseBool: parsing {value:?}: invalid syntax")),
        },
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => format!("parse {text:?}: missing protocol scheme"),
        other => format!("parse {text:?}: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str], environment: &[(&str, &str)]) -> Result<Options, Vec<String>> {
        let words: Vec<String> = ["provisionerd", "start"]
            .iter()
            .chain(flags)
            .map(|word| (*word).to_owned())
            .collect();
        let environment = environment
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        Options::parse("coder provisionerd start", &words, &environment).map_err(|ParseError(lines)| lines)
    }

    #[test]
    fn flags_win_over_variables_and_tags_are_merged() {
        let options = parse(
            &[
                "--tag",
                "gpu=none",
                "-t",
                "\"a=1,2\"",
                "--name=flag",
                "--log-human=",
            ],
            &[
                ("CODER_PROVISIONERD_TAGS", "os=linux,owner=lab"),
                ("CODER_PROVISIONER_DAEMON_NAME", "variable"),
            ],
        )
        .ok()
        .unwrap();
        assert_eq!(options.tags, ["os=linux", "owner=lab", "gpu=none", "a=1,2"]);
        assert_eq!(options.name.as_deref(), Some("flag"));
        assert_eq!(options.log_human, "");
        assert!(!options.verbose);
    }

    #[test]
    fn complains_about_flags() {
        for (flags, problem) in [
            (vec!["--nonsense"], "unknown flag: --nonsense"),
            (vec!["--name"], "flag needs an argument: --name"),
            (vec!["-x"], "unknown shorthand flag: 'x' in -x"),
            (
                vec!["--verbose=maybe"],
                "strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (vec!["stray"], "unrecognized argument \"stray\""),
        ] {
            let lines = parse(&flags, &[]).err().unwrap();
            assert!(lines[0].contains(problem), "{lines:?}");
        }
    }

    #[test]
    fn counts_the_complaints_about_variables() {
        let lines = parse(&[], &[("CODER_URL", "://"), ("CODER_PROVISIONERD_TAGS", "a\"b")])
            .err()
            .unwrap();
        assert_eq!(lines[0], "parsing env: 2 errors occurred:");
        assert_eq!(lines.len(), 5);
    }
}
