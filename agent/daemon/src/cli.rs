//! The command line, as data.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::TunnelMode;

const EXAMPLES: &str = "\
Examples:
  orfe-registry join-code create | orfe join -    enrol this machine
  orfe run                                        work until stopped
  orfe status                                     how is it?
  orfe status --check ready && echo 'at work'     for scripts
  ssh -o ProxyCommand='orfe nc %h %p' build.demo.internal

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not healthy, 4 not permitted,
5 the daemon is not running.";

/// Puts this machine to work as a Coder provisioner, and keeps it healthy.
#[derive(Debug, Parser)]
#[command(name = "orfe", version, max_term_width = 80, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub places: PlaceArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Where things are. A flag wins over its variable, that over the config file, that over the default.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PlaceArgs {
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "Config file [env: ORFE_CONFIG]"
    )]
    pub config: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help = "State folder: keys, desired state, logs [env: ORFE_STATE]"
    )]
    pub state: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        help = "Control socket of the daemon [env: ORFE_CONTROL]"
    )]
    pub control: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Enrol this machine with a join code
    Join(JoinArgs),
    /// Run the daemon in the foreground
    Run(RunArgs),
    /// Show how the daemon is
    Status(StatusArgs),
    /// Connect standard input and output to a host and port
    Nc(NcArgs),
    /// How to use this machine's proxy
    #[command(after_help = PROXY_EXAMPLES)]
    Proxy {
        #[command(subcommand)]
        command: ProxyCommand,
    },
    /// Check or show the configuration
    #[command(after_help = CONFIG_PATHS)]
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// In the container of its own: carry workspace containers' connections to
    /// the agent. The daemon starts it.
    #[command(hide = true)]
    Forwarder(ForwarderArgs),
    /// Print a completion script for a shell
    Completions { shell: Shell },
    /// Print the version
    Version {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orfe-registry join-code create | ssh laptop orfe join -
  orfe join - --name gpu-box < code.txt

The code dies when it is used, so it may also be given in place of `-`.

A code made with `--via-tunnel` needs nothing but one of the gateway's UDP
ports; where none of them answers, the registry is asked directly. A machine
that has joined and lost its way in (the gateway's key changed while it was
off) gets a new one by such a code; stop the daemon first.")]
pub(crate) struct JoinArgs {
    /// The join code, or `-` to read it from standard input
    #[arg(value_name = "CODE|-")]
    pub code: String,
    /// Name in the fleet; the host name by default
    #[arg(long)]
    pub name: Option<String>,
    /// How the tunnel is to meet this machine, from now on
    #[arg(long, value_name = "MODE")]
    pub tunnel: Option<TunnelMode>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[arg(
        long,
        value_name = "MODE",
        help = "How the tunnel meets this machine [env: ORFE_TUNNEL]"
    )]
    pub tunnel: Option<TunnelMode>,
    #[arg(
        long,
        value_name = "URL",
        help = "HTTP proxy before the registry, or `off` [env: ORFE_HTTP_PROXY]"
    )]
    pub http_proxy: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ForwarderArgs {
    /// The agent's socket, or its port; then `ORFE_DOOR_CREDENTIAL` holds the
    /// credential
    #[arg(long, value_name = "PATH|HOST:PORT")]
    pub agent: String,
    /// Port to listen on
    #[arg(long = "port", value_name = "PORT", required = true)]
    pub ports: Vec<u16>,
    /// Network whose containers are served, as in 172.18.0.0/16
    #[arg(long = "from", value_name = "NETWORK", required = true)]
    pub from: Vec<String>,
    /// Address in it that is not a container: the network's gateway
    #[arg(long = "except", value_name = "ADDRESS")]
    pub except: Vec<std::net::IpAddr>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 healthy or idle, 3 not healthy (or not ready), 5 the daemon is
not running.")]
pub(crate) struct StatusArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Go on and show every change, until interrupted
    #[arg(long, conflicts_with = "check")]
    pub watch: bool,
    /// Print nothing; answer by exit code alone
    #[arg(long, value_name = "WHAT")]
    pub check: Option<Probe>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Names and networks of the registry's policy are reached through the tunnel or
not at all, everything else as this machine would. The connection goes through
the daemon's control socket: there is no port, and no credential to show.
Each direction ends on its own.

Examples:
  ssh -o ProxyCommand='orfe nc %h %p' build.demo.internal
  printf 'HEAD / HTTP/1.0\\r\\n\\r\\n' | orfe nc coder.demo.internal 80

Exit codes: 0 both directions ended, 1 not reached, 2 wrong usage, 4 not
permitted, 5 the daemon is not running.")]
pub(crate) struct NcArgs {
    /// A name, an IPv4 or an IPv6 address
    pub host: String,
    /// 1 to 65535
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
}

const CONFIG_PATHS: &str = "\
A relative path in the config file counts from the file's own folder, one in a
flag or a variable from the folder that the command is started in. A program
without a folder, as in coder = \"coder\", is looked for on the PATH.";

const PROXY_EXAMPLES: &str = "\
The proxy is off until agent.toml says where it listens:
  [proxy]
  listen = \"127.0.0.1:1080\"

It speaks HTTP and SOCKS5 on that port. What these commands print holds its
credential: treat it as a password.

Examples:
  eval \"$(orfe proxy env)\"
  curl --proxy \"$(orfe proxy url --socks)\" https://coder.demo.internal/healthz";

#[derive(Debug, Subcommand)]
pub(crate) enum ProxyCommand {
    /// Print the proxy's URL, credential included
    Url {
        /// As a SOCKS5 proxy that resolves names itself
        #[arg(long)]
        socks: bool,
    },
    /// Print variables for a shell to evaluate, credential included
    Env,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Probe {
    /// The daemon answers
    Live,
    /// Every required check passes
    Ready,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read the configuration and say what is wrong with it
    Check,
    /// Print the configuration in force
    Show {
        /// Say for each value where it comes from
        #[arg(long)]
        origin: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The help of every command that is shown, as it is printed at 80 columns.
    #[test]
    fn help_is_as_it_was_read_last() {
        let mut command = Cli::command();
        command.build();
        let mut text = String::new();
        render(&mut command, &mut text);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "more than 80 columns: {line}");
        }
        insta::assert_snapshot!("help", text);
    }

    fn render(command: &mut clap::Command, text: &mut String) {
        let help = command.render_long_help();
        let name = command.get_bin_name().unwrap_or("orfe");
        for part in ["==== ", name, "\n", &help.to_string(), "\n"] {
            text.push_str(part);
        }
        let shown = |command: &&mut clap::Command| command.get_name() != "help" && !command.is_hide_set();
        command
            .get_subcommands_mut()
            .filter(shown)
            .for_each(|command| render(command, text));
    }
}
