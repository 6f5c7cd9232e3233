//! `orfe join`: enrols this machine.
//!
//! Keys are made (or found, after a lost answer) before anything is sent. The claim goes through the Noise session with the key
//! that the join code pins, so a registry that does not hold it learns neither the code's secret nor anything else.

mod way_in;

use std::io::{BufRead as _, IsTerminal, Read as _};
use std::process::ExitCode;

use orfe_protocol::desired::Tunnel;
use orfe_protocol::join_code::{InvalidJoinCode, JoinCode};
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::message::{Claim, Claimed, FromAgent, FromRegistry, Refused, RefusedReason};
use orfe_protocol::name::DeviceName;
use zeroize::Zeroizing;

use super::print;
use crate::cli::{JoinArgs, PlaceArgs};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::link::{Connection, LinkError, Received, RegistryAddress, STEP_TIMEOUT, Way, connect};
use crate::state::{Identity, StateFolder};

/// More than the longest join code.
const INPUT_MAX: u64 = 16 * 1024;

pub(super) fn run(places: &PlaceArgs, args: &JoinArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(places)?;
    let code = read_code(&args.code)?;
    let name = wanted_name(args.name.as_deref())?;
    let state = StateFolder::open(&config.state.value)
        .map_err(|failure| failure.hint_or("stop the running daemon before this machine joins"))?;
    let earlier = state.identity()?;
    if let Some(identity) = &earlier
        && !way_in::renews(identity, &code)
    {
        return Err(already_joined(identity, &code, &state).into());
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let joined = runtime.block_on(enrol(&config, &state, &code, name))?;
    let (mut identity, tunnel) = (joined.identity, joined.tunnel);
    // A new way in changes nothing else here; granted tags, which the registry keeps, stay but for those that the code names.
    identity.tunnel = args.tunnel.or(earlier.and_then(|identity| identity.tunnel));
    if let Some(tunnel) = tunnel {
        // First: with an identity and no way in, the device would look enrolled and never come back.
        state.store_desired(&way_in::first_desired(&identity, tunnel))?;
    }
    state.store_identity(&identity)?;
    let through = if joined.through_tunnel {
        " through the tunnel"
    } else {
        ""
    };
    print(&format!(
        "joined {}{through} as {}\nnext: {}\n",
        identity.registry_url,
        identity.name,
        next(places)
    ))
}

/// The command that runs what has just joined: with the places that were named on the command line.
fn next(places: &PlaceArgs) -> String {
    let named = [
        ("--config", &places.config),
        ("--state", &places.state),
        ("--control", &places.control),
    ];
    let mut words = vec!["orfe".to_owned()];
    for (flag, path) in named {
        if let Some(path) = path {
            let path = path.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
            words.push(flag.to_owned());
            words.push(if path.chars().all(plain) {
                path.into_owned()
            } else {
                format!("'{}'", path.replace('\'', r"'\''"))
            });
        }
    }
    words.push("run".to_owned());
    words.join(" ")
}

fn read_code(argument: &str) -> Result<JoinCode, Failure> {
    let text = if argument == "-" {
        read_stdin()?
    } else {
        Zeroizing::new(argument.to_owned())
    };
    text.parse().map_err(|error| {
        let hint = match error {
            InvalidJoinCode::Version(_) | InvalidJoinCode::Flags(_) => {
                "this program is older than the registry that made the code; upgrade it"
            }
            _ => "copy the whole line that `orfe-registry join-code create` printed",
        };
        Failure::new("cannot read the join code")
            .hint(hint.to_owned())
            .exit(Exit::Usage)
            .because(error)
    })
}

#[expect(
    clippy::print_stderr,
    reason = "a person at a terminal must know that it waits for input"
)]
fn read_stdin() -> Result<Zeroizing<String>, Failure> {
    let stdin = std::io::stdin();
    let mut text = Zeroizing::new(String::new());
    let mut input = stdin.lock().take(INPUT_MAX);
    let read = if stdin.is_terminal() {
        eprintln!("waiting for the join code; paste it and press enter:");
        input.read_line(&mut text)
    } else {
        input.read_to_string(&mut text)
    };
    let cannot = Failure::new("cannot read the join code from standard input")
        .hint("give it the line that `orfe-registry join-code create` printed".to_owned())
        .exit(Exit::Usage);
    match read {
        Ok(_) if text.trim().is_empty() => {
            Err(cannot.because(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(cannot.because(error)),
    }
}

fn wanted_name(given: Option<&str>) -> Result<DeviceName, Failure> {
    let Some(name) = given else {
        // A machine that does not know its name joins as `device`; an admin can tell it by its hardware.
        let hostname = orfe_platform::process::hostname().unwrap_or_default();
        return Ok(DeviceName::from_hostname(&hostname));
    };
    name.parse().map_err(|error| {
        Failure::new("that name cannot be used")
            .hint("choose something like `alices-laptop`".to_owned())
            .exit(Exit::Usage)
            .because(error)
    })
}

fn already_joined(identity: &Identity, code: &JoinCode, state: &StateFolder) -> Failure {
    let same = identity.registry_key == code.registry_key;
    let place = if same { "this registry" } else { "another registry" };
    Failure::new(format!(
        "this machine already joined {place} ({}) as {}",
        identity.registry_url, identity.name
    ))
    .hint(if same {
        format!(
            "start it with `orfe run` (to join anew, after a revocation, move {} away); the join code was not used",
            state.path().display()
        )
    } else {
        format!(
            "to join anew, move {} away; the join code was not used",
            state.path().display()
        )
    })
}

/// What came of a claim.
struct Joined {
    identity: Identity,
    /// The device's own end of the tunnel, when the code gives a way in.
    tunnel: Option<Tunnel>,
    through_tunnel: bool,
}

/// Claims with the code.
async fn enrol(
    config: &Config,
    state: &StateFolder,
    code: &JoinCode,
    name: DeviceName,
) -> Result<Joined, Failure> {
    let noise_key = state.noise_key()?;
    let wireguard_key = state.wireguard_key()?;
    let registry = RegistryAddress {
        url: code.registry_url.clone(),
        key: code.registry_key,
        spki_pin: code.spki_pin,
        proxy: config.http_proxy.value.proxy.clone(),
    };
    let (mut connection, tunnel) = if let Some(way_in) = &code.way_in {
        let opened = way_in::open(&code.secret, way_in, config.tcp_stack.value).await;
        way_in::connect(opened, way_in, &registry, &noise_key).await?
    } else {
        let direct = connect(&registry, &Way::Direct, &noise_key).await;
        (direct.map_err(unreachable)?, None)
    };
    let claim = Claim {
        join_code: code.id,
        secret: code.secret.to_text(),
        name,
        wireguard_public_key: WireGuardPublicKey::from_bytes(*wireguard_key.public_key().as_bytes()),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer = ask(&mut connection, claim).await?;
    connection.close().await;
    let through_tunnel = tunnel.is_some();
    if let Some(tunnel) = tunnel {
        tunnel.shutdown().await;
    }
    let claimed = claimed(answer)?;
    if code.way_in.is_some() && claimed.tunnel.is_none() {
        return Err(Failure::new(
            "the registry enrolled this machine and did not say how to come back through the tunnel",
        )
        .hint("ask its admin whether the gateway was switched off".to_owned()));
    }
    Ok(Joined {
        identity: Identity {
            version: 1,
            device: claimed.device,
            name: claimed.name,
            registry_url: registry.url,
            registry_key: registry.key,
            spki_pin: registry.spki_pin,
            tunnel: None,
        },
        tunnel: claimed
            .tunnel
            .filter(|_| code.way_in.is_some())
            .map(|tunnel| *tunnel),
        through_tunnel,
    })
}

/// Sends the claim, and waits for what the registry says to it.
async fn ask(connection: &mut Connection, claim: Claim) -> Result<FromRegistry, Failure> {
    connection
        .send(&FromAgent::Claim(claim))
        .await
        .map_err(unreachable)?;
    let answer = async {
        loop {
            if let Received::Message(message) = connection.receive().await.map_err(unreachable)? {
                return Ok(*message);
            }
        }
    };
    tokio::time::timeout(STEP_TIMEOUT, answer).await.map_err(|_| {
        Failure::new("the registry took the join code and did not answer")
            .hint("run the same command again: the code is still good for this machine".to_owned())
    })?
}

fn claimed(answer: FromRegistry) -> Result<Claimed, Failure> {
    match answer {
        FromRegistry::Claimed(claimed) => Ok(claimed),
        FromRegistry::Refused(refused) => Err(refusal(&refused)),
        FromRegistry::Welcome(_) | FromRegistry::Desired(_) | FromRegistry::Ack(_) => Err(Failure::new(
            "the registry answered something else than was asked",
        )),
    }
}

fn unreachable(error: LinkError) -> Failure {
    Failure::new("cannot join")
        .hint(error.hint().map(str::to_owned))
        .because(error)
}

fn refusal(refused: &Refused) -> Failure {
    let hint = match refused.reason {
        RefusedReason::JoinCodeInvalid
        | RefusedReason::JoinCodeExpired
        | RefusedReason::JoinCodeUsed
        | RefusedReason::JoinCodeRevoked => {
            "ask the registry's admin for a new one: `orfe-registry join-code create`"
        }
        RefusedReason::WireGuardKeyTaken => {
            "this state folder is a copy of another machine's; remove `wireguard.key` and `noise.key` from it"
        }
        RefusedReason::WeakKey => "remove `wireguard.key` and `noise.key` from the state folder",
        RefusedReason::DeviceRevoked => "an admin revoked this machine; ask for a new join code",
        RefusedReason::TooManyTags => {
            "ask the registry's admin for a code with fewer tags, or to take some of this device's away: `orfe-registry device tag`"
        }
        RefusedReason::Unavailable => "try again in a moment",
        RefusedReason::UnknownDevice | RefusedReason::Protocol | RefusedReason::Unknown => {
            "the registry's log says more"
        }
    };
    Failure::new(format!("the registry refused: {}", refused.message)).hint(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_next_names_the_places_that_were_named() {
        let mut places = PlaceArgs::default();
        assert_eq!(next(&places), "orfe run");
        places.state = Some("/srv/a machine's".into());
        places.control = Some("/run/orfe.sock".into());
        assert_eq!(
            next(&places),
            r"orfe --state '/srv/a machine'\''s' --control /run/orfe.sock run"
        );
    }
}
