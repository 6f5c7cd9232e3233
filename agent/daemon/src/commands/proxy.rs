//! `orfe proxy`: how to use this machine's proxy.

use std::process::ExitCode;

use super::print;
use crate::cli::{PlaceArgs, ProxyCommand};
use crate::config::Config;
use crate::control::Client;

/// What is not worth a way through the proxy: this machine itself, which the proxy refuses to dial.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

pub(super) fn run(places: &PlaceArgs, command: &ProxyCommand) -> anyhow::Result<ExitCode> {
    let socket = Config::control_socket(places)?;
    let urls = Client::proxy(&socket)?;
    match command {
        ProxyCommand::Url { socks: false } => print(&format!("{}\n", urls.http.expose())),
        ProxyCommand::Url { socks: true } => print(&format!("{}\n", urls.socks.expose())),
        ProxyCommand::Env => print(&variables(urls.http.expose(), urls.socks.expose())),
    }
}

/// Both spellings of each variable: curl reads `http_proxy` in lower case only, others in upper case only.
fn variables(http: &str, socks: &str) -> String {
    let values = [
        ("HTTP_PROXY", http),
        ("HTTPS_PROXY", http),
        ("ALL_PROXY", socks),
        ("NO_PROXY", NO_PROXY),
    ];
    let lines = values.map(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        format!("export {name}='{value}' {lower}='{value}'\n")
    });
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_can_evaluate_it() {
        insta::assert_snapshot!(variables("http://orfe:c@127.0.0.1:1080", "socks5h://orfe:c@127.0.0.1:1080"), @r"
        export HTTP_PROXY='http://orfe:c@127.0.0.1:1080' http_proxy='http://orfe:c@127.0.0.1:1080'
        export HTTPS_PROXY='http://orfe:c@127.0.0.1:1080' https_proxy='http://orfe:c@127.0.0.1:1080'
        export ALL_PROXY='socks5h://orfe:c@127.0.0.1:1080' all_proxy='socks5h://orfe:c@127.0.0.1:1080'
        export NO_PROXY='localhost,127.0.0.1,::1' no_proxy='localhost,127.0.0.1,::1'
        ");
    }
}
