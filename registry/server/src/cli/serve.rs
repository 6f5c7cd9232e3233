//! `orfe-registry serve`

use std::io::Write;

use orfe_platform::signals::{Signal, Termination};
use orfe_platform::{private, process};

use super::{Cli, Failure, ServeArgs, print};
use crate::api::Ready;
use crate::registry::Registry;

/// Files that are asked for: what Linux lets a process have unless an admin says otherwise (`fs.nr_open`).
const FILES_MAX: u64 = 1 << 20;
/// Files that are no sessions: the database, listeners, the dashboard's and the gateway's connections.
const FILES_BESIDE_SESSIONS: u64 = 2048;

pub(super) async fn run(cli: &Cli, args: &ServeArgs, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let config = cli.resolve(args.into())?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    raise_file_limit(config.session.sessions_max);
    // Before anything is opened, so that a signal that comes early still closes it all.
    let mut termination =
        Termination::new().map_err(|error| Failure::new(format!("signals could not be taken: {error}")))?;
    if let Some(path) = args.ready_file.as_ref().filter(|path| path.exists()) {
        // Of an earlier life; who waits for it must not take it for this one's.
        fs_err::remove_file(path).map_err(|error| Failure::new(error.to_string()))?;
    }
    let registry = Registry::start(&config).await?;
    let told = tell(&registry.ready(), args, out);
    if told.is_ok() {
        wait(&mut termination, cli, args, &registry).await;
    }
    registry.shutdown().await;
    told
}

/// Lets the process open as many files as it may, and says how many those are.
///
/// Every connected device is one; so is each connection of the gateway, and one more behind it.
fn raise_file_limit(sessions_max: usize) {
    match process::raise_file_limit(FILES_MAX) {
        Ok(None) => tracing::info!("open files at once: no limit"),
        Ok(Some(files)) => {
            tracing::info!(files, "open files at once");
            let devices = files.saturating_sub(FILES_BESIDE_SESSIONS);
            if devices < sessions_max as u64 {
                tracing::warn!(
                    files,
                    wanted = sessions_max as u64 + FILES_BESIDE_SESSIONS,
                    "only some {devices} devices can be connected at once, of the {sessions_max} that it would take; \
                     raise the hard limit of open files (LimitNOFILE= of the unit, `--ulimit nofile=` of the container)"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "fewer devices and connections at once are possible"),
    }
}

/// Until the process is asked to stop; a hangup reads the configuration again.
async fn wait(termination: &mut Termination, cli: &Cli, args: &ServeArgs, registry: &Registry) {
    loop {
        match termination.recv().await {
            Signal::Terminate | Signal::Interrupt => return,
            Signal::Hangup => match cli.resolve(args.into()) {
                Ok(config) => {
                    registry.reconfigure(&config);
                    tracing::info!(
                        "configuration read again; addresses, TLS and policy change at a restart only"
                    );
                }
                Err(failure) => {
                    tracing::error!("configuration not changed: {}", failure.to_string().trim_end());
                }
            },
        }
    }
}

fn tell(ready: &Ready, args: &ServeArgs, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let json = serde_json::to_string(ready)
        .map_err(|error| Failure::new(format!("the addresses could not be written as JSON: {error}")))?;
    if let Some(path) = &args.ready_file {
        // The link in it is a secret until it is used, so the file is private.
        private::write(path, format!("{json}\n").as_bytes())
            .map_err(|error| Failure::new(crate::chain(&error)).hint(error.hint().unwrap_or_default()))?;
    }
    if args.json {
        return print(out, &format!("{json}\n"));
    }
    let gateway = ready
        .wireguard
        .map_or("off".to_owned(), |address| format!("UDP {address}"));
    print(
        out,
        &format!(
            "registry   {} (listens on {})\ngateway    {gateway}\ndashboard  {} (good once, for 15 minutes)\ndata       {}\n",
            ready.public_url,
            ready.https,
            ready.dashboard,
            ready.data.display(),
        ),
    )
}
