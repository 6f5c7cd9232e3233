//! `orfe-registry serve`

use std::io::Write;

use orfe_platform::private;
use orfe_platform::signals::{Signal, Termination};

use super::{Cli, Failure, ServeArgs, print};
use crate::api::Ready;
use crate::registry::Registry;

pub(super) async fn run(cli: &Cli, args: &ServeArgs, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let config = cli.resolve(args.into())?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
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
