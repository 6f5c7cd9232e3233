//! `orfe run`: the daemon, in the foreground.

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{PlaceArgs, RunArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::run::{Daemon, init_logging};
use crate::state::StateFolder;

/// Files at once: a thousand connections through the proxy, each with two ends and, where the kernel copies, a pipe.
const FILES: u64 = 8192;

pub(super) fn run(places: &PlaceArgs, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(places)?;
    config.choose_tunnel(args.tunnel);
    config.choose_http_proxy(args.http_proxy.as_deref())?;
    init_logging(&config)?;
    config.http_proxy.value.warn();
    let state = StateFolder::open_existing(&config.state.value)?.ok_or_else(not_joined)?;
    let identity = state.identity()?.ok_or_else(not_joined)?;
    raise_file_limit();
    // One thread for the event loop and all tasks: a second one and this one would wake each other for every message, on a
    // machine at rest. Nothing that a task does lasts long, bytes are copied in turns, and the tunnel has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        // Their futures are large.
        let daemon = Box::pin(Daemon::start(config, state, identity)).await?;
        Box::pin(daemon.run()).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Lets this process open as many files as it may take, and says when the system allows fewer.
pub(super) fn raise_file_limit() {
    match orfe_platform::process::raise_file_limit(FILES) {
        Ok(Some(files)) if files < FILES => tracing::warn!(
            files,
            wanted = FILES,
            "the hard limit of open files allows fewer connections at once; raise it (LimitNOFILE= of the unit, \
             `--ulimit nofile=` of the container, or limits.conf)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "fewer connections at once are possible"),
    }
}

fn not_joined() -> Failure {
    Failure::new("this machine has not joined a registry yet")
        .hint("get a join code from the registry's admin, then `orfe join -`".to_owned())
}
