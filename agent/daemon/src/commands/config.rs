//! `orfe config check` and `orfe config show`.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;

use super::print;
use crate::cli::{ConfigCommand, PlaceArgs};
use crate::config::Config;

pub(super) fn run(places: &PlaceArgs, command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(places)?;
    match command {
        ConfigCommand::Check => {
            let file = &config.file.value;
            let seen = if file.exists() {
                "is right"
            } else {
                "is not there; every setting has its default"
            };
            print(&format!("{} {seen}\n", file.display()))
        }
        ConfigCommand::Show { json: true, .. } => {
            let rows: Vec<_> = config
                .rows()
                .into_iter()
                .map(|(name, value, origin)| json!({"name": name, "value": value, "origin": origin}))
                .collect();
            print(&format!("{:#}\n", json!({"version": 1, "settings": rows})))
        }
        ConfigCommand::Show { origin, json: false } => {
            let mut text = String::new();
            for (name, value, from) in config.rows() {
                if *origin {
                    writeln!(text, "{name:<28} {from:<12} {value}")?;
                } else {
                    writeln!(text, "{name:<28} {value}")?;
                }
            }
            print(&text)
        }
    }
}
