//! What the program does between its options and its first dial, in the recorded order; each step may end it with 1.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use rand::Rng;
use serde::Deserialize;
use serde_json::json;

use super::daemon::World;
use super::dial::{Credential, Dialer, go_error};
use super::log::Logger;
use super::options::{Options, Source};
use super::proxy::Proxies;
use super::{complain, lines, tls};

const LONGEST_NAME: usize = 64;

/// Ready to dial.
pub(super) struct Ready {
    pub(super) logger: Logger,
    pub(super) dialer: Dialer,
    pub(super) name: String,
    /// The tags that go into the dial: none with a key.
    pub(super) dialed_tags: Vec<(String, String)>,
    pub(super) cache_dir: PathBuf,
}

#[derive(Deserialize)]
struct KeyDetails {
    tags: BTreeMap<String, String>,
}

/// Takes every step; the error is the text after `error: `.
pub(super) async fn prepare(world: &World) -> Result<Ready, String> {
    let options = &world.options;
    let Some(url) = options.url.clone() else {
        return Err("You are not logged in. Try logging in using 'coder login <url>'.".to_owned());
    };
    warn_about_psk(options);
    let dialer = Dialer {
        url,
        proxies: Proxies::from_environment(&world.environment),
        tls: tls::client_config(&world.environment).map_err(|error| format!("tls: {error}"))?,
        credential: match (&options.psk, &options.key) {
            (Some(psk), None) => Credential::Psk(psk.clone()),
            (_, Some(key)) => Credential::Key(key.clone()),
            (None, None) => Credential::None,
        },
        telemetry: telemetry(options),
        scale: world.scale,
    };
    check_conflicts(options, &dialer).await?;
    let mut tags = parse_tags(&options.tags)?;
    let with_key = options.key.is_some();
    if with_key {
        tags = preflight(&dialer).await?;
    }
    let name = match &options.name {
        Some(name) => name.clone(),
        None => default_name(),
    };
    check_name(&name)?;
    let logger = Logger::open(&options.log_human, &options.log_json, options.verbose)
        .map_err(|error| format!("failed to initialize logger: {}", go_error(&error)))?;
    if tags.is_empty() {
        logger.line(&lines::UNTAGGED, &[]);
    }
    logger.line(
        if with_key {
            &lines::KEY_SCOPE
        } else {
            &lines::PSK_SCOPE
        },
        &[],
    );
    let cache_dir = cache_dir(world);
    make_folder(&cache_dir)?;
    make_work_folder(world)?;
    if let Some(address) = &options.prometheus {
        logger.line(&lines::METRICS_START, &[("address", json!(address))]);
    }
    logger.line(&lines::STARTING, &[("tags", json!(tags)), ("name", json!(name))]);
    let mut dialed_tags = Vec::new();
    if !with_key {
        dialed_tags.push(("scope".to_owned(), "organization".to_owned()));
        dialed_tags.extend(tags);
    }
    Ok(Ready {
        logger,
        dialer,
        name,
        dialed_tags,
        cache_dir,
    })
}

fn warn_about_psk(options: &Options) {
    let (old, new) = match options.psk_source {
        Some(Source::Flag) => ("--psk", "--key"),
        Some(Source::Environment) => ("CODER_PROVISIONER_DAEMON_PSK", "CODER_PROVISIONER_DAEMON_KEY"),
        None => return,
    };
    complain(&[
        format!("WARN: `{old}` is deprecated, please use `{new}` instead."),
        String::new(),
    ]);
}

async fn check_conflicts(options: &Options, dialer: &Dialer) -> Result<(), String> {
    match (&options.psk, &options.key) {
        (None, None) => return Err(without_credential(options, dialer).await),
        (Some(_), Some(_)) => {
            return Err("cannot provide both provisioner key --key and pre-shared key --psk".to_owned());
        }
        (None, Some(_)) if !options.tags.is_empty() => {
            return Err("cannot provide tags when using provisioner key".to_owned());
        }
        _ => {}
    }
    if options.org.is_some() {
        return Err("cannot provide --org value with --psk or --key flags".to_owned());
    }
    Ok(())
}

/// Without PSK and key the program first asks as a user, who is nobody here.
async fn without_credential(options: &Options, dialer: &Dialer) -> String {
    const PATH: &str = "/api/v2/users/me/organizations";
    match dialer.get(PATH).await {
        Err(cause) => {
            let url = dialer.url.as_str().trim_end_matches('/');
            format!("current organization: get organizations: Get \"{url}{PATH}\": {cause}")
        }
        Ok(_) if options.token.is_some() => {
            "the stand-in dials with a PSK or a key only, not as a user".to_owned()
        }
        Ok(_) => {
            "must provide a pre-shared key or provisioner key when not authenticated as a user".to_owned()
        }
    }
}

fn parse_tags(texts: &[String]) -> Result<BTreeMap<String, String>, String> {
    let pair = |text: &String| {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("invalid tag format for {text:?}. must be key=value"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// The key itself stands in the path; so it was recorded.
async fn preflight(dialer: &Dialer) -> Result<BTreeMap<String, String>, String> {
    let failed = || "unable to get provisioner key details".to_owned();
    let Credential::Key(key) = &dialer.credential else {
        return Err(failed());
    };
    let answer = dialer.get(&format!("/api/v2/provisionerkeys/{key}")).await;
    let (status, body) = answer.map_err(|_| failed())?;
    if status != 200 {
        return Err(failed());
    }
    let details: KeyDetails = serde_json::from_slice(&body).map_err(|_| failed())?;
    Ok(details.tags)
}

fn check_name(name: &str) -> Result<(), String> {
    if name.len() > LONGEST_NAME {
        return Err("name cannot be greater than 64 characters in length".to_owned());
    }
    let inner = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let valid = (2..LONGEST_NAME).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if valid {
        Ok(())
    } else {
        Err(format!("name {name:?} is not a valid hostname"))
    }
}

fn default_name() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    match host.split('.').next() {
        Some(first) if !first.is_empty() => first.to_owned(),
        _ => "localhost".to_owned(),
    }
}

fn cache_dir(world: &World) -> PathBuf {
    let variable = |name: &str| world.environment.get(name).filter(|value| !value.is_empty());
    if let Some(folder) = &world.options.cache_dir {
        return PathBuf::from(folder);
    }
    let base = match (
        variable("CACHE_DIRECTORY"),
        variable("XDG_CACHE_HOME"),
        variable("HOME"),
    ) {
        (Some(folder), ..) | (None, Some(folder), _) => PathBuf::from(folder),
        (None, None, Some(home)) => Path::new(home).join(".cache"),
        (None, None, None) => std::env::temp_dir(),
    };
    base.join("coder")
}

fn make_folder(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let problem = if folder.exists() && !folder.is_dir() {
        Some("not a directory".to_owned())
    } else {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .err()
            .map(|error| go_error(&error))
    };
    problem.map_or(Ok(()), |problem| {
        Err(format!("mkdir \"{shown}\": mkdir {shown}: {problem}"))
    })
}

/// The folder in TMPDIR that every started daemon leaves behind.
fn make_work_folder(world: &World) -> Result<(), String> {
    let parent = world.environment.get("TMPDIR").filter(|value| !value.is_empty());
    let parent = parent.map_or("/tmp", String::as_str);
    let folder = Path::new(parent).join(format!("provisionerd{}", rand::rng().random::<u32>()));
    let made = DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|error| format!("mkdir {}: {}", folder.display(), go_error(&error)))
}

fn telemetry(options: &Options) -> String {
    let entries: Vec<_> = options
        .telemetry
        .iter()
        .map(|(name, source)| {
            let source = match source {
                Source::Environment => "env",
                Source::Flag => "flag",
            };
            json!({ "name": name, "value_source": source })
        })
        .collect();
    let invoked_at = jiff::Timestamp::now().to_string();
    let report = json!({ "command": options.command, "options": entries, "invoked_at": invoked_at });
    BASE64.encode(report.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_two_to_sixty_three_letters_digits_and_hyphens() {
        for good in ["ab", "rec-1", "A9", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "-a",
            "a-",
            "a_b",
            "a.b",
            &"a".repeat(64),
            &"a".repeat(65),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(
            check_name(&default_name()).is_ok() || default_name().len() < 2 || default_name().contains('_')
        );
    }

    #[test]
    fn a_tag_is_split_at_its_first_equals_sign() {
        let tags = parse_tags(&["a=b=c".to_owned(), "x=".to_owned()]).unwrap();
        assert_eq!((tags["a"].as_str(), tags["x"].as_str()), ("b=c", ""));
        assert!(
            parse_tags(&["gpu".to_owned()])
                .unwrap_err()
                .contains("must be key=value")
        );
    }
}
