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
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use orfe_platform::log_filter::{self, NotALogFilter};
use orfe_platform::paths::{Environment, Places};
use serde::Serialize;

use self::args::{
    ConfigCommand, CreateArgs, DashboardCommand, DeviceCommand, Format, GatewayCommand, JoinCodeCommand,
    PeerAddArgs, PeerCommand, ServeArgs,
};
use self::client::Client;
pub use self::failure::Failure;
use crate::api;
use crate::config::file;
use crate::config::{Config, ConfigError, Overrides};

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
    #[arg(default_value = "info", hide_default_value = true, value_parser = log_filter)]
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

#[derive(Serialize)]
struct VersionAnswer {
    version: u32,
    orfe_registry: &'static str,
}

fn log_filter(text: &str) -> Result<String, NotALogFilter> {
    log_filter::check(text).map(|()| text.to_owned())
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
