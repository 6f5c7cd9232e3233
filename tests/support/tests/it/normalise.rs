//! What differs between two runs of one program is set aside: times, ports, random names, and which of two words the
//! kernel chose for a connection that was cut.

use serde_json::Value;

/// What a line of the dump after SIGQUIT counts as.
const DUMP: &str = "lines of a goroutine dump)";

/// A line as it is compared, and which goroutine of the real program printed it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Normal {
    pub(crate) text: String,
    pub(crate) actor: &'static str,
    /// How often it was repeated in a row.
    pub(crate) times: usize,
}

/// Normalises one stream. `folder` is what the case's temporary folder was called.
pub(crate) fn stream(lines: &[String], folder: &str) -> Vec<Normal> {
    let mut normal: Vec<Normal> = Vec::new();
    for text in without_dump(lines) {
        let line = line(&text, folder);
        match normal.last_mut() {
            Some(last) if last.text == line.text => last.times += 1,
            _ => normal.push(line),
        }
    }
    normal
}

/// The dump counts as one line: how long it is depends on the Go that the program was built with.
fn without_dump(lines: &[String]) -> Vec<String> {
    match lines.iter().position(|line| line == "SIGQUIT: quit") {
        Some(quit) if lines.len() > quit + 1 => {
            let mut kept = lines[..=quit].to_vec();
            kept.push(format!("({DUMP}"));
            kept
        }
        _ => lines.to_vec(),
    }
}

fn line(text: &str, folder: &str) -> Normal {
    let text = text.replace(folder, "<tmp>");
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(mut record)) => {
            assert!(
                record.remove("ts").is_some(),
                "a log line without its time: {text}"
            );
            let func = record["func"].as_str().unwrap().to_owned();
            if let Some(caller) = record.get_mut("caller") {
                *caller = within_repository(caller.as_str().unwrap(), &func).into();
            }
            let actor = actor(&func, record.get("logger_names"));
            let text = plain(&Value::Object(record).to_string()).replace("/go/pkg/mod/", "<mod>/");
            Normal {
                text,
                actor,
                times: 1,
            }
        }
        _ => Normal {
            text: plain(&without_human_time(&text)),
            actor: "plain",
            times: 1,
        },
    }
}

/// The source file without the folder that the program was built in, which a build with `-trimpath` does not name.
fn within_repository<'a>(caller: &'a str, func: &str) -> &'a str {
    let Some(inside) = func.strip_prefix("github.com/coder/coder/v2/") else {
        return caller;
    };
    // `enterprise/cli.(*RootCmd)…` is of the package `enterprise/cli`.
    let file_name = inside.rfind('/').map_or(0, |slash| slash + 1);
    let package = match inside[file_name..].find('.') {
        Some(dot) => &inside[..file_name + dot],
        None => inside,
    };
    match caller.rfind(&format!("/{package}/")) {
        Some(slash) => &caller[slash + 1..],
        None => caller,
    }
}

/// Goroutines of the real program run beside each other; what two of them print comes in no fixed order.
fn actor(func: &str, loggers: Option<&Value>) -> &'static str {
    if loggers.is_some() {
        "terraform"
    } else if func.ends_with(".connect") {
        "connect"
    } else if func.contains(".acquire") {
        "acquire"
    } else if func.contains("ServeHandler") {
        "metrics"
    } else {
        "plain"
    }
}

fn plain(text: &str) -> String {
    let text = resolver(&lost_connection(&ports(text)));
    numbers_after(
        &numbers_after(&text, "127.0.0.1:", "PORT"),
        "provisionerd",
        "RANDOM",
    )
}

/// Ports stay where they are part of the case: 1 refuses.
fn ports(text: &str) -> String {
    text.replace("127.0.0.1:1/", "127.0.0.1:one/")
        .replace("127.0.0.1:1:", "127.0.0.1:one:")
}

/// Go names the server that was asked where the machine has one configured.
fn resolver(text: &str) -> String {
    let Some((before, after)) = text.split_once(": lookup ") else {
        return text.to_owned();
    };
    match after.split_once(": no such host") {
        Some((asked, rest)) => {
            let name = asked.split(" on ").next().unwrap_or(asked);
            format!("{before}: lookup {name}: no such host{rest}")
        }
        None => text.to_owned(),
    }
}

fn numbers_after(text: &str, prefix: &str, name: &str) -> String {
    let mut parts = text.split(prefix);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|letter: char| letter.is_ascii_digit());
        result.push_str(prefix);
        if rest.len() < part.len() {
            result.push_str(name);
        }
        result.push_str(rest);
    }
    result
}

/// A connection that is closed under a request ends it by EOF or by reset, as the race goes.
fn lost_connection(text: &str) -> String {
    for end in ["EOF", "read: connection reset by peer", "write: broken pipe"] {
        let Some(position) = text.find(&format!(": {end}\"")) else {
            continue;
        };
        // The reset's text names both addresses in front of it.
        let start = match text[..position].rfind("\\\": ") {
            Some(quote) => quote + 2,
            None => position,
        };
        return format!(
            "{}: CONNECTION LOST{}",
            &text[..start],
            &text[position + 2 + end.len()..]
        );
    }
    text.to_owned()
}

fn without_human_time(text: &str) -> String {
    let bytes = text.as_bytes();
    let dated = bytes.len() > 24 && bytes[4] == b'-' && bytes[10] == b' ' && bytes[19] == b'.';
    if dated {
        format!("<time>{}", &text[23..])
    } else {
        text.to_owned()
    }
}

/// How two streams compare.
#[derive(Debug, PartialEq)]
pub(crate) enum Agreement {
    /// Same lines in the same order.
    Strict,
    /// Same lines, in the same order within each goroutine of the real program.
    EachGoroutine,
    /// The first difference.
    Differs(String),
}

/// Compares the recorded with the actual stream. A line that is repeated at intervals may come once more or less: the
/// action that ends the repetition and the next repetition race.
pub(crate) fn compare(recorded: &[Normal], actual: &[Normal]) -> Agreement {
    if first_difference(recorded, actual).is_none() {
        return Agreement::Strict;
    }
    for actor in ["plain", "connect", "acquire", "terraform", "metrics"] {
        if let Some(difference) = first_difference(&only(recorded, actor), &only(actual, actor)) {
            return Agreement::Differs(format!("{actor}: {difference}"));
        }
    }
    Agreement::EachGoroutine
}

fn only(lines: &[Normal], actor: &str) -> Vec<Normal> {
    let mut kept: Vec<Normal> = Vec::new();
    for line in lines.iter().filter(|line| line.actor == actor) {
        match kept.last_mut() {
            Some(last) if last.text == line.text => last.times += line.times,
            _ => kept.push(line.clone()),
        }
    }
    kept
}

fn first_difference(recorded: &[Normal], actual: &[Normal]) -> Option<String> {
    for index in 0..recorded.len().max(actual.len()) {
        let (left, right) = (recorded.get(index), actual.get(index));
        let same = match (left, right) {
            (Some(left), Some(right)) => {
                let repeated = left.times > 1 || right.times > 1;
                let slack = usize::from(repeated && left.text.contains("failed to dial"));
                left.text == right.text && left.times.abs_diff(right.times) <= slack
            }
            _ => false,
        };
        if !same {
            let shown = |line: Option<&Normal>| {
                line.map_or("(nothing)".to_owned(), |line| {
                    format!("{}× {}", line.times, line.text)
                })
            };
            return Some(format!(
                "line {index}\n   recorded {}\n   actual   {}",
                shown(left),
                shown(right)
            ));
        }
    }
    None
}

#[test]
fn sets_ports_and_lost_connections_aside_and_nothing_else() {
    let eof = r#"Get \"http://127.0.0.1:39153/x\": EOF""#;
    let reset = r#"Get \"http://127.0.0.1:40000/x\": read tcp 127.0.0.1:5->127.0.0.1:40000: read: connection reset by peer""#;
    assert_eq!(plain(eof), plain(reset));
    assert_ne!(plain(eof), plain(r#"Get \"http://127.0.0.1:1/x\": EOF""#));
    assert_ne!(plain("status 401"), plain("status 403"));
}

#[test]
fn the_folder_of_a_build_is_set_aside() {
    let func = "github.com/coder/coder/v2/enterprise/cli.(*RootCmd).provisionerDaemonStart.func1";
    for caller in ["/home/a/enterprise/cli/start.go:7", "enterprise/cli/start.go:7"] {
        assert_eq!(within_repository(caller, func), "enterprise/cli/start.go:7");
    }
    assert_eq!(
        within_repository("/mod/x/y.go:1", "github.com/x.Y"),
        "/mod/x/y.go:1"
    );
}

#[test]
fn order_between_goroutines_is_free_and_within_one_it_is_not() {
    let lines = |pairs: &[(&str, &'static str)]| -> Vec<Normal> {
        pairs
            .iter()
            .map(|(text, actor)| Normal {
                text: (*text).to_owned(),
                actor,
                times: 1,
            })
            .collect()
    };
    let one = lines(&[("a", "connect"), ("b", "acquire"), ("c", "connect")]);
    let other = lines(&[("b", "acquire"), ("a", "connect"), ("c", "connect")]);
    let swapped = lines(&[("c", "connect"), ("b", "acquire"), ("a", "connect")]);
    assert_eq!(compare(&one, &one), Agreement::Strict);
    assert_eq!(compare(&one, &other), Agreement::EachGoroutine);
    assert!(matches!(compare(&one, &swapped), Agreement::Differs(_)));
}
