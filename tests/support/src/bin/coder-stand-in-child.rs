//! `coder-stand-in-child provisionerd start …`: a stand-in for the provisioner daemon of Coder's `coder` program.
//! For tests and the demo; see [`orfe_test_support::child`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    orfe_test_support::child::run(&arguments, environment)
}
