//! `orfe forwarder`: the process in the forwarder's container.

use std::process::ExitCode;

use crate::cli::ForwarderArgs;

/// The variable that holds the credential of the door's port: arguments could be read by others.
pub(crate) const DOOR_CREDENTIAL: &str = "ORFE_DOOR_CREDENTIAL";

#[cfg(unix)]
pub(super) fn run(args: &ForwarderArgs) -> anyhow::Result<ExitCode> {
    use anyhow::Context as _;
    use orfe_platform::signals::Termination;
    use orfe_tunnel::forwarder::{Forwarder, ForwarderConfig, Listen};
    use tokio_util::sync::CancellationToken;

    use crate::failure::{Exit, Failure};

    let from = args.from.iter().map(|network| {
        network.parse().map_err(|reason| {
            Failure::new(format!("--from {network} is not right: {reason}"))
                .exit(Exit::Usage)
                .into()
        })
    });
    let config = ForwarderConfig {
        listen: Listen::Everywhere,
        ports: args.ports.clone(),
        agent: agent(&args.agent)?,
        from: from.collect::<anyhow::Result<_>>()?,
        except: args.except.clone(),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // Two for each connection; the engine's default may be no more than a thousand.
    super::run::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        // The first process of a container gets no default action for a signal.
        let mut termination = Termination::new().context("cannot listen for signals")?;
        let stop = CancellationToken::new();
        let forwarder = Forwarder::bind(config)
            .await
            .context("the forwarder cannot work")?;
        let serving = forwarder.serve(stop.clone());
        let stopping = async {
            let signal = termination.recv().await;
            tracing::info!(?signal, "stopping");
            stop.cancel();
        };
        tokio::join!(serving, stopping);
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where the agent is: a path has a slash, a host has none.
#[cfg(unix)]
fn agent(text: &str) -> Result<orfe_tunnel::forwarder::Agent, crate::failure::Failure> {
    use orfe_tunnel::forwarder::Agent;

    use crate::failure::{Exit, Failure};

    if text.contains('/') {
        return Ok(Agent::Socket(text.into()));
    }
    let Some((host, Ok(port))) = text.rsplit_once(':').map(|(host, port)| (host, port.parse())) else {
        return Err(
            Failure::new(format!("--agent {text} is neither a path nor HOST:PORT")).exit(Exit::Usage),
        );
    };
    let Ok(credential) = std::env::var(DOOR_CREDENTIAL) else {
        return Err(Failure::new(format!("the variable {DOOR_CREDENTIAL} is needed")).exit(Exit::Usage));
    };
    Ok(Agent::Port {
        host: host.to_owned(),
        port,
        credential: credential.into(),
    })
}

#[cfg(not(unix))]
pub(super) fn run(_: &ForwarderArgs) -> anyhow::Result<ExitCode> {
    Err(
        crate::failure::Failure::new("the forwarder runs in Linux containers only")
            .exit(crate::failure::Exit::Usage)
            .into(),
    )
}
