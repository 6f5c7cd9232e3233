//! What the stand-in for terraform prints. It knows `version` and `version -json`, nothing else, and says what it is.

use serde_json::json;

/// The version that it claims unless [`VERSION_VARIABLE`] says otherwise: one that Coder v2.26.0 accepts silently.
pub const DEFAULT_VERSION: &str = "1.11.4";

/// Environment variable with the version to claim.
pub const VERSION_VARIABLE: &str = "TERRAFORM_STAND_IN_VERSION";

/// The answer to a command line, or the complaint about one that it does not know.
pub fn answer(arguments: &[String], version: &str) -> Result<String, String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["version", "-json" | "--json"] => Ok(json!({
            "terraform_version": version,
            "platform": format!("{}_{}", go_os(), go_arch()),
            "provider_selections": {},
            "terraform_outdated": false,
            "stand_in": true,
        })
        .to_string()),
        ["version" | "-version" | "--version" | "-v"] => Ok(format!(
            "Terraform v{version} (stand-in, for tests and the demo)\non {}_{}",
            go_os(),
            go_arch()
        )),
        _ => Err(format!(
            "terraform stand-in: only `version` and `version -json` work, not `{}`; hint: install terraform",
            words.join(" ")
        )),
    }
}

fn go_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn answers_version_and_nothing_else() {
        let json: serde_json::Value =
            serde_json::from_str(&answer(&words("version -json"), "1.11.4").unwrap()).unwrap();
        assert_eq!(json["terraform_version"], "1.11.4");
        assert!(answer(&words("version"), "1.11.4").unwrap().contains("stand-in"));
        assert!(answer(&words("apply"), "1.11.4").unwrap_err().contains("`apply`"));
    }
}
