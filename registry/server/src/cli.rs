//! The command line. [`Cli`] is what can be written, [`Cli::run`] does it.
//!
//! A value comes from a flag, else the environment, else the configuration file, else the default. Standard output
//! holds only what was asked for; remarks, warnings and errors go to standard error.

mod args;
mod client;
mod device;
mod failure;
mod gateway;
mod join_code;
mod peer;
mod serve;
mod table;
mod terminal;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use orfe_platform::paths::{Environment, Places};
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::name::DeviceName;
use orfe_protocol::tag::Tag;
use serde::Serialize;
use url::Url;

use self::args::{GatewayCommand, PeerAddArgs, PeerCommand};
use self::client::Client;
pub use self::failure::Failure;
use crate::api;
use crate::config::file;
use crate::config::{Config, ConfigError, HostPort, Overrides};
use crate::span::Span;

/// What is always quiet: boringtun logs an expired session, which is normal, as an error.
const QUIET: &str = "boringtun=off";

/// Enrols devices, states what they are to do, and lets them reach Coder.
#[derive(Debug, Parser)]
#[command(
    name = "orfe-registry",
    version,
    max_term_width = 80,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
Examples:
  orfe-registry serve --config registry.toml
  orfe-registry join-code create --tag owner=alice
  orfe-registry device list

Exit codes: 0 ok, 1 failed, 2 usage, 4 not permitted, 5 no registry runs.")]
pub struct Cli {
    /// Data folder [default: /var/lib/orfe-registry for root, else below the
    /// user's state folder]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "DIR",
        env = "ORFE_REGISTRY_DATA",
        hide_env_values = true
    )]
    data: Option<PathBuf>,
    /// Configuration file
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILE",
        env = "ORFE_REGISTRY_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// What to log to standard error, such as `debug` or `orfe_registry=trace`
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILTER",
        env = "ORFE_REGISTRY_LOG",
        hide_env_values = true
    )]
    #[arg(default_value = "info", hide_default_value = true)]
    log: String,
    #[arg(skip)]
    terminal: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the registry
    Serve(ServeArgs),
    /// Codes with which devices join
    #[command(subcommand)]
    JoinCode(JoinCodeCommand),
    /// Devices of the fleet
    #[command(subcommand)]
    Device(DeviceCommand),
    /// People's plain WireGuard clients
    #[command(subcommand)]
    Peer(PeerCommand),
    /// The WireGuard gateway
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// The dashboard
    #[command(subcommand)]
    Dashboard(DashboardCommand),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completions {
        /// Shell to complete for
        shell: Shell,
    },
    /// Print the version
    Version(Format),
}

#[derive(Debug, Args)]
struct Format {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orfe-registry serve
  orfe-registry serve --config registry.toml \\
      --public-url https://orfe.example.com:7443

SIGHUP reads the configuration again; SIGTERM and Ctrl-C stop it.")]
struct ServeArgs {
    /// Where agents connect [default: 0.0.0.0:7443]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ORFE_REGISTRY_LISTEN",
        hide_env_values = true
    )]
    listen: Option<SocketAddr>,
    /// How agents reach it, as join codes name it
    #[arg(
        long,
        value_name = "URL",
        env = "ORFE_REGISTRY_PUBLIC_URL",
        hide_env_values = true
    )]
    public_url: Option<Url>,
    /// UDP address of the WireGuard gateway [default: 0.0.0.0:51820]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ORFE_REGISTRY_WIREGUARD",
        hide_env_values = true
    )]
    wireguard: Option<SocketAddr>,
    /// How devices reach the gateway [default: host of the public URL]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "ORFE_REGISTRY_WIREGUARD_ENDPOINT",
        hide_env_values = true
    )]
    wireguard_endpoint: Option<HostPort>,
    /// Loopback address of the dashboard [default: 127.0.0.1:7480]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ORFE_REGISTRY_DASHBOARD",
        hide_env_values = true
    )]
    dashboard: Option<SocketAddr>,
    /// Write the addresses there, as JSON, once everything answers
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Print the addresses as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum JoinCodeCommand {
    /// Make a join code and print it, the one time that it is shown
    #[command(after_help = "\
Examples:
  orfe-registry join-code create --tag owner=alice --note \"Alice's laptop\"
  orfe-registry join-code create | ssh laptop orfe join -
  orfe-registry join-code create --via-tunnel --note \"reaches UDP 51820 only\"

With --via-tunnel, enrolment and every later session may go through the tunnel:
the device has to reach the gateway's UDP port and nothing else. Such a code has
one use, and needs a registry that runs a gateway.")]
    Create(CreateArgs),
    /// List the join codes, without their secrets
    List(Format),
    /// Make a join code worthless
    Revoke {
        /// Id of the code, as `list` shows it
        id: JoinCodeId,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Tag that devices are given; may be repeated, each key once
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
    /// How many devices may join with it
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// Let the device reach this registry through the tunnel; such a code has one use
    #[arg(long)]
    via_tunnel: bool,
    /// How long it is good, at most 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: Span,
    /// Whom or what it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// List the devices
    List(Format),
    /// Show one device with its checks
    Show {
        /// Name of the device
        name: DeviceName,
        #[command(flatten)]
        format: Format,
    },
    /// Change the tags that were granted to a device
    #[command(after_help = "\
Examples:
  orfe-registry device tag gpu-box team=ml location=lab
  orfe-registry device tag gpu-box --remove team

Gateway and device learn of it at once.")]
    Tag {
        /// Name of the device
        name: DeviceName,
        /// Tags to set
        #[arg(value_name = "KEY=VALUE")]
        tags: Vec<Tag>,
        /// Key of a tag to take away; may be repeated
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Let a device never come back; its session and tunnel end at once
    Revoke {
        /// Name of the device
        name: DeviceName,
    },
}

#[derive(Debug, Subcommand)]
enum DashboardCommand {
    /// Print a link into the dashboard that is good once, for 15 minutes
    Link(Format),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration file and what it names
    #[command(after_help = "\
A whole configuration file:
  public_url = \"https://orfe.example.com:7443\"
  wireguard_endpoint = \"orfe.example.com:51820\"
  docker_required = false

  [coder]
  url = \"https://coder.example.com\"
  psk_file = \"coder-psk\"       # mode 0600
  slots = 1

  [tunnel]
  enabled = true
  websocket = true              # carry it over HTTPS where UDP is blocked
  also_listen = [\"0.0.0.0:443\"] # further UDP addresses; default: none
  also_endpoints = [\"orfe.example.com:443\"]  # default: the same host at those

  [[policy.allow]]
  name = \"coder.example.com\"
  ports = [443]
  upstream = \"coder.coder.svc:443\"   # default: the same name and port

  [[policy.allow]]
  network = \"10.20.0.0/16\"
  ports = [22, \"8000-8010\"]          # TCP
  udp_ports = [53]
  for = [\"team=ml\", \"team=ops,location=lab\"]  # default: all devices
  for_peers = [\"alice\"]              # default: all when `for` is absent

  [dns]
  suffixes = [\"svc.cluster.local\"]   # \".\" for every name
  resolver = \"10.96.0.10:53\"         # default: the system's first")]
    Check,
}

#[derive(Serialize)]
struct VersionAnswer {
    version: u32,
    orfe_registry: &'static str,
}

impl Cli {
    /// What the environment or the flag says is to be logged. Commands other than `serve` are quiet unless asked.
    pub fn log_filter(&self) -> String {
        let asked = match self.command {
            Command::Serve(_) => &self.log,
            _ if self.log == "info" => "warn",
            _ => &self.log,
        };
        format!("{asked},{QUIET}")
    }

    /// Standard output is a terminal, so tables are to fit into it.
    #[must_use]
    pub fn on_terminal(self, terminal: bool) -> Self {
        Self { terminal, ..self }
    }

    /// How wide a table may be; none: as wide as it must.
    fn width(&self) -> Option<usize> {
        self.terminal.then(terminal::width)
    }

    /// Does what was asked; `out` is standard output.
    pub async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
        match &self.command {
            Command::Serve(args) => serve::run(&self, args, out).await,
            Command::JoinCode(command) => join_code::run(&self.client()?, command, self.width(), out).await,
            Command::Device(command) => device::run(&self.client()?, command, self.width(), out).await,
            Command::Gateway(command) => gateway::run(&self.client()?, command, self.width(), out).await,
            Command::Peer(command) => peer::run(&self.client()?, command, self.width(), out).await,
            Command::Dashboard(DashboardCommand::Link(format)) => {
                let link: api::DashboardLink = self.client()?.post("/v1/dashboard-links", &()).await?;
                if format.json {
                    print_json(out, &link)
                } else {
                    print(out, &format!("{}\n", link.url))
                }
            }
            Command::Config(ConfigCommand::Check) => self.check_config(out),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut Self::command(), "orfe-registry", &mut script);
                print(out, &String::from_utf8_lossy(&script))
            }
            Command::Version(format) => {
                let version = env!("CARGO_PKG_VERSION");
                if format.json {
                    print_json(
                        out,
                        &VersionAnswer {
                            version: api::VERSION,
                            orfe_registry: version,
                        },
                    )
                } else {
                    print(out, &format!("orfe-registry {version}\n"))
                }
            }
        }
    }

    /// The configuration, with `overrides` over what the file says.
    fn resolve(&self, overrides: Overrides) -> Result<Config, Failure> {
        let overrides = Overrides {
            data: self.data.clone(),
            ..overrides
        };
        Ok(Config::resolve(
            self.config.as_deref(),
            overrides,
            default_data(),
        )?)
    }

    /// The way to the running registry. Only the place of its socket is needed, so the rest of the file may be wrong.
    fn client(&self) -> Result<Client, Failure> {
        let from_file = || -> Result<Option<PathBuf>, Failure> {
            let Some(path) = &self.config else { return Ok(None) };
            let folder = path.parent().map(PathBuf::from).unwrap_or_default();
            Ok(file::read(path)?.data.map(|data| folder.join(data)))
        };
        let data = match &self.data {
            Some(data) => data.clone(),
            None => from_file()?.or_else(default_data).ok_or(ConfigError::NoData)?,
        };
        Ok(Client::new(data))
    }

    fn check_config(&self, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
        let Some(path) = &self.config else {
            return Err(Failure::usage("no configuration file to check").hint("name one with `--config`"));
        };
        let config = self.resolve(Overrides::default())?;
        for warning in config.warnings() {
            print(out, &format!("warning: {warning}\n"))?;
        }
        print(out, &format!("{} is good\n", path.display()))
    }
}

impl From<&ServeArgs> for Overrides {
    fn from(args: &ServeArgs) -> Self {
        Self {
            data: None,
            listen: args.listen,
            public_url: args.public_url.clone(),
            wireguard: args.wireguard,
            wireguard_endpoint: args.wireguard_endpoint.clone(),
            dashboard: args.dashboard,
        }
    }
}

/// Where the data is when nobody says: beside the agent's state, the system's for root and else the user's. None
/// where neither can be told.
fn default_data() -> Option<PathBuf> {
    let environment = Environment::of_process();
    let places = Places::of(environment.default_scope(), &environment);
    Some(places.state_dir().ok()?.with_file_name("orfe-registry"))
}

/// Writes to standard output. A reader that went away, such as `head`, is no failure.
fn print(out: &mut (dyn Write + Send), text: &str) -> Result<(), Failure> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("standard output takes no text: {error}")))
        }
        _ => Ok(()),
    }
}

fn print_json<T: Serialize>(out: &mut (dyn Write + Send), value: &T) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(format!("the answer could not be written as JSON: {error}")))?;
    print(out, &format!("{json}\n"))
}
