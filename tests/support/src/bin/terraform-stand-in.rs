//! `terraform-stand-in version [-json]`: enough of terraform for a provisioner to find one. For tests and the demo.

use std::io::Write;
use std::process::ExitCode;

use orfe_test_support::terraform;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let version =
        std::env::var(terraform::VERSION_VARIABLE).unwrap_or_else(|_| terraform::DEFAULT_VERSION.to_owned());
    let written = match terraform::answer(&arguments, &version) {
        Ok(answer) => writeln!(std::io::stdout(), "{answer}").map(|()| ExitCode::SUCCESS),
        Err(complaint) => writeln!(std::io::stderr(), "{complaint}").map(|()| ExitCode::FAILURE),
    };
    written.unwrap_or(ExitCode::FAILURE)
}
