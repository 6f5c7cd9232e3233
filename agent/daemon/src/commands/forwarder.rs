//! `orfe forwarder`: the process in the forwarder's container.

use std::process::ExitCode;

use crate::cli::ForwarderArgs;

#[cfg(unix)]
pub(super) fn run(args: &ForwarderArgs) -> anyhow::Result<ExitCode> {
    use anyhow::Context as _;
    use orfe_platform::signals::Termination;
    use orfe_tunnel::forwarder::{self, ForwarderConfig};
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
        ports: args.ports.clone(),
        agent: args.agent.clone(),
        from: from.collect::<anyhow::Result<_>>()?,
        except: args.except.clone(),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        // The first process of a container gets no default action for a signal.
        let mut termination = Termination::new().context("cannot listen for signals")?;
        let stop = CancellationToken::new();
        let serving = forwarder::serve(config, stop.clone());
        tokio::pin!(serving);
        tokio::select! {
            served = &mut serving => return served.context("the forwarder cannot work"),
            signal = termination.recv() => tracing::info!(?signal, "stopping"),
        }
        stop.cancel();
        serving.await.context("the forwarder cannot end")
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(unix))]
pub(super) fn run(_: &ForwarderArgs) -> anyhow::Result<ExitCode> {
    Err(
        crate::failure::Failure::new("the forwarder runs in Linux containers only")
            .exit(crate::failure::Exit::Usage)
            .into(),
    )
}
