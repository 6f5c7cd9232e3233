//! Where the registry listens: for agents, for browsers and, on a unix socket, for its own command line.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::config::Config;
use crate::listener;
use crate::state_folder::{StateFolder, admin_socket};

/// The TCP listeners, bound.
pub(super) struct Listeners {
    pub(super) https: SocketAddr,
    pub(super) https_listener: TcpListener,
    pub(super) dashboard: SocketAddr,
    pub(super) dashboard_listener: TcpListener,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> Result<Self, StartError> {
        let failed = |what, address: SocketAddr| {
            move |source| StartError::Listen {
                what,
                address: address.to_string(),
                source,
            }
        };
        let https_listener =
            listener::bind(config.listen).map_err(failed("HTTPS listener", config.listen))?;
        let dashboard_listener = TcpListener::bind(config.dashboard)
            .await
            .map_err(failed("dashboard", config.dashboard))?;
        Ok(Self {
            https: https_listener
                .local_addr()
                .map_err(failed("HTTPS listener", config.listen))?,
            dashboard: dashboard_listener
                .local_addr()
                .map_err(failed("dashboard", config.dashboard))?,
            https_listener,
            dashboard_listener,
        })
    }
}

pub(super) fn bind_admin(folder: &StateFolder) -> Result<UnixListener, StartError> {
    use std::os::unix::fs::PermissionsExt as _;
    let path: PathBuf = admin_socket(&folder.path);
    let failed = |source| StartError::Listen {
        what: "admin socket",
        address: path.display().to_string(),
        source,
    };
    // Left by a registry that was killed; the lock says that it is gone.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    // Nobody else gets here before: the folder is 0700.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

pub(super) async fn serve_plain(listener: TcpListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    log_served("dashboard", served.await);
}

pub(super) fn log_served(what: &'static str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(what, error = crate::chain(&error), "a listener ended");
    }
}
