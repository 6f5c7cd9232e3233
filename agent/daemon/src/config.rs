//! Configuration: raw TOML, variables and flags become one valid [`Config`], each value with its origin.
//!
//! Flag > `ORFE_*` variable > file > what was chosen at `orfe join` > default. (What the registry states is desired state and not configuration; it never
//! overrides what the machine's owner wrote.) A relative path in the file counts from the file's folder, one in a flag or a variable from
//! where the command was started. Everything is read and checked before anything is opened.

mod containers;
mod file;
mod http_proxy;
mod local;
mod log_filter;
mod shown;
mod tunnel;
mod words;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orfe_platform::paths::{Environment, PathError, Places, check_socket_path};
use orfe_tunnel::TcpStack;
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use self::containers::{Containers, DoorChoice, Enabled as ContainersEnabled, HostGateway};
use self::http_proxy::HttpProxy;
pub(crate) use self::local::Forward;
pub(crate) use self::tunnel::{Bridges, TunnelMode};
use crate::cli::PlaceArgs;
use crate::failure::{Exit, Failure};
use crate::state;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    Flag,
    Environment,
    File,
    /// `orfe join` was told so.
    Join,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Join => "join",
            Self::Default => "default",
        })
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The file that was read, if there is one.
    pub file: Setting<PathBuf>,
    pub state: Setting<PathBuf>,
    pub control: Setting<PathBuf>,
    /// The `coder` program: a path, or a name that is looked for on `path`.
    pub coder: Setting<PathBuf>,
    /// PATH of the provisioners; terraform is looked for on it.
    pub path: Setting<OsString>,
    /// How long a drain may wait for the running job.
    pub drain_timeout: Setting<Duration>,
    /// Where the proxy for the person at this machine listens; none: off.
    pub proxy_listen: Setting<Option<SocketAddr>>,
    /// Ports of this machine that lead somewhere.
    pub forwards: Setting<Vec<Forward>>,
    /// The owner's own HTTP proxy, through which the registry is reached, and what does not go through the tunnel.
    pub http_proxy: Setting<HttpProxy>,
    /// What is dialled past it, in the form of `NO_PROXY`.
    pub no_proxy: Setting<String>,
    /// Which TCP stack carries the connections in the tunnel.
    pub tcp_stack: Setting<TcpStack>,
    /// What becomes of a tunnel that the registry wants.
    pub tunnel_mode: Setting<TunnelMode>,
    /// In TUN mode: whether the policy's names are looked up through the tunnel.
    pub split_dns: Setting<bool>,
    /// In TUN mode: bridges whose containers may use the tunnel.
    pub bridges: Setting<Bridges>,
    /// How workspace containers get to Coder.
    pub containers: Containers,
    pub log_filter: Setting<String>,
    pub log_format: Setting<LogFormat>,
}

/// Form of the daemon's own log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Human,
    Json,
}

impl LogFormat {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

impl<'de> Deserialize<'de> for LogFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        words::one_of(deserializer, &[Self::Human, Self::Json], Self::as_str)
    }
}

/// Longest drain deadline; a build that takes longer is no reason to keep a machine from stopping.
const DRAIN_TIMEOUT_MAX_S: u64 = 24 * 60 * 60;

/// Drain deadline when none is configured: Coder's own Helm chart gives a provisioner as long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

impl Config {
    /// The configuration of this process.
    pub(crate) fn load(flags: &PlaceArgs) -> Result<Self, Failure> {
        let mut config = Self::resolve(flags, &Environment::of_process())?;
        config.take_joined_choice();
        Ok(config)
    }

    /// Takes what `orfe join` was told, where nothing closer says otherwise. Whoever may not read the state folder sees the
    /// default: only `orfe config show` can be so.
    fn take_joined_choice(&mut self) {
        if self.tunnel_mode.origin == Origin::Default
            && let Some(value) = state::joined_tunnel_mode(&self.state.value)
        {
            self.tunnel_mode = Setting {
                value,
                origin: Origin::Join,
            };
        }
    }

    /// Takes the flag `--tunnel`, if it was given.
    pub(crate) fn choose_tunnel(&mut self, flag: Option<TunnelMode>) {
        if let Some(value) = flag {
            self.tunnel_mode = Setting {
                value,
                origin: Origin::Flag,
            };
        }
    }

    fn resolve(flags: &PlaceArgs, environment: &Environment<'_>) -> Result<Self, Failure> {
        let variable = |name: &str| (environment.var)(name).filter(|value| !value.is_empty());
        let places = Places::of(environment.default_scope(), environment);

        let named = flags.config.is_some() || variable("ORFE_CONFIG").is_some();
        let file = pick_or(flags.config.clone(), path(variable("ORFE_CONFIG")), None, || {
            places.config_file().map_err(no_place)
        })?;
        let raw = file::read(&file.value, named)?;
        let text = |name: &str| text_variable(name, variable(name));

        if raw
            .provisioner
            .drain_timeout_s
            .is_some_and(|seconds| seconds > DRAIN_TIMEOUT_MAX_S)
        {
            return Err(Failure::new(format!(
                "provisioner.drain_timeout_s in {} is too long",
                file.value.display()
            ))
            .hint(format!("{DRAIN_TIMEOUT_MAX_S} (a day) is the most"))
            .exit(Exit::Usage));
        }
        let mut state = pick_or(
            flags.state.clone(),
            path(variable("ORFE_STATE")),
            raw.state,
            || places.state_dir().map_err(no_place),
        )?;
        // Children run elsewhere, and their folders tell whose they are.
        state.value = absolute(&state.value)?;
        let control = pick_or(
            flags.control.clone(),
            path(variable("ORFE_CONTROL")),
            raw.control,
            || places.control_socket().map_err(no_place),
        )?;
        check_control(&control)?;
        let coder = coder_program(path(variable("ORFE_CODER_BIN")), raw.provisioner.coder)?;
        let tcp_stack = text("ORFE_TCP_STACK")?
            .map(|name| words::tcp_stack(&name))
            .transpose()?;
        let tunnel_mode = tunnel::mode(text("ORFE_TUNNEL")?, raw.tunnel.mode)?;
        let bridges = tunnel::bridges(&file.value, raw.tunnel.bridges)?;
        let (http_proxy, no_proxy) = http_proxy::resolve(&variable, &file.value, raw.http_proxy)?;
        let containers = containers::resolve(text("ORFE_CONTAINERS")?, &file.value, raw.containers)?;
        let log_format = text("ORFE_LOG_FORMAT")?
            .map(|format| words::log_format(&format))
            .transpose()?;
        let log_filter = pick(None, text("ORFE_LOG")?, raw.log.filter, || "info".to_owned());
        log_filter::check(&log_filter, &file.value)?;
        let proxy_listen = local::proxy(&file.value, raw.proxy.listen)?;
        let forwards = local::forwards(&file.value, raw.forward)?;
        local::check_apart(&file.value, proxy_listen, forwards.as_deref().unwrap_or_default())?;
        Ok(Self {
            state,
            control,
            coder,
            path: pick(None, None, raw.provisioner.path.map(OsString::from), || {
                variable("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"))
            }),
            drain_timeout: pick(
                None,
                None,
                raw.provisioner.drain_timeout_s.map(Duration::from_secs),
                || DRAIN_TIMEOUT,
            ),
            proxy_listen: pick(None, None, proxy_listen.map(Some), || None),
            forwards: pick(None, None, forwards, Vec::new),
            http_proxy,
            no_proxy,
            tcp_stack: pick(None, tcp_stack, raw.tunnel.tcp_stack, TcpStack::default),
            tunnel_mode,
            split_dns: pick(None, None, raw.tunnel.split_dns, || false),
            bridges: pick(None, None, bridges, || Bridges::Auto),
            containers,
            log_filter,
            log_format: pick(None, log_format, raw.log.format, || LogFormat::Human),
            file,
        })
    }

    /// The control socket alone: whoever names it needs no config file, and may not be allowed to read it.
    pub(crate) fn control_socket(flags: &PlaceArgs) -> Result<PathBuf, Failure> {
        Self::control_socket_in(flags, &Environment::of_process())
    }

    fn control_socket_in(flags: &PlaceArgs, environment: &Environment<'_>) -> Result<PathBuf, Failure> {
        let variable = (environment.var)("ORFE_CONTROL").filter(|value| !value.is_empty());
        let named = first([
            (flags.control.clone(), Origin::Flag),
            (path(variable), Origin::Environment),
        ]);
        match named {
            Some(control) => {
                check_control(&control)?;
                Ok(control.value)
            }
            None => Ok(Self::resolve(flags, environment)?.control.value),
        }
    }
}

/// Only whoever leaves a place open needs what it is derived from, such as HOME.
fn no_place(error: PathError) -> Failure {
    Failure::new("cannot tell where Orfe's files are")
        .hint(error.hint())
        .because(error)
}

fn coder_program(environment: Option<PathBuf>, file: Option<PathBuf>) -> Result<Setting<PathBuf>, Failure> {
    let mut coder = pick(None, environment, file, || PathBuf::from("coder"));
    if !is_bare_name(&coder.value) {
        coder.value = absolute(&coder.value)?;
    }
    Ok(coder)
}

/// Whether a program is named without a folder; such a one is looked for on the PATH.
fn is_bare_name(program: &Path) -> bool {
    program.components().count() <= 1
}

/// As seen from the folder that this process was started in.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::new(format!("cannot tell where {} is", path.display()))
            .hint("give it from the root on".to_owned())
            .because(error)
    })
}

fn pick<T>(
    flag: Option<T>,
    environment: Option<T>,
    file: Option<T>,
    default: impl FnOnce() -> T,
) -> Setting<T> {
    let Ok(setting) = pick_or::<_, std::convert::Infallible>(flag, environment, file, || Ok(default()));
    setting
}

/// The same where the default may not be known.
fn pick_or<T, E>(
    flag: Option<T>,
    environment: Option<T>,
    file: Option<T>,
    default: impl FnOnce() -> Result<T, E>,
) -> Result<Setting<T>, E> {
    let layers = [
        (flag, Origin::Flag),
        (environment, Origin::Environment),
        (file, Origin::File),
    ];
    match first(layers) {
        Some(setting) => Ok(setting),
        None => Ok(Setting {
            value: default()?,
            origin: Origin::Default,
        }),
    }
}

/// The first value that there is.
fn first<T, const N: usize>(layers: [(Option<T>, Origin); N]) -> Option<Setting<T>> {
    layers.into_iter().find_map(|(value, origin)| {
        Some(Setting {
            value: value?,
            origin,
        })
    })
}

/// Checks that the control socket can have its path; of pipes nothing is known that they could not be called.
fn check_control(control: &Setting<PathBuf>) -> Result<(), Failure> {
    if !cfg!(unix) {
        return Ok(());
    }
    check_socket_path(&control.value).map_err(|error| {
        let hint = match control.origin {
            Origin::Environment => "put a shorter path into ORFE_CONTROL".to_owned(),
            Origin::File => "choose a shorter path for `control` in the config file".to_owned(),
            Origin::Flag | Origin::Join | Origin::Default => error.hint(),
        };
        Failure::new("cannot use the control socket")
            .hint(hint)
            .because(error)
            .exit(Exit::Usage)
    })
}

fn path(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from)
}

fn text_variable(name: &str, value: Option<OsString>) -> Result<Option<String>, Failure> {
    let text = value.map(OsString::into_string).transpose();
    text.map_err(|_| Failure::new(format!("the variable {name} is not valid text")).exit(Exit::Usage))
}

#[cfg(test)]
mod tests;
