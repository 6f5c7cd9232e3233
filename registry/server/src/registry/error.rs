//! Why a registry did not start, and what to do about it.

use std::io;
use std::net::SocketAddr;

use orfe_store::StoreError;

use crate::gateway::GatewayError;
use crate::state_folder::StateFolderError;
use crate::tls::TlsError;

/// Why the registry did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Folder(#[from] StateFolderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error("the {what} could not listen on {address}")]
    Listen {
        what: &'static str,
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("no public URL can be made from the address {address}")]
    PublicUrl { address: SocketAddr },
}

impl StartError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Folder(error) => error.hint(),
            Self::Store(error) => error.hint().map(ToOwned::to_owned),
            Self::Tls(error) => error.hint(),
            Self::Gateway(GatewayError::Start { address, source }) => {
                Some(listen_hint(source, "udp", address.port(), "`--wireguard`"))
            }
            Self::Gateway(GatewayError::Also { address, source }) => Some(also_hint(source, *address)),
            Self::Gateway(GatewayError::Policy(_)) => {
                Some("mend the entries of [[policy.allow]] in the configuration".to_owned())
            }
            Self::Gateway(GatewayError::TcpStack { hint, .. }) => {
                let other = "leave the choice to the registry with `tcp_stack = \"auto\"`";
                Some(hint.map_or_else(|| other.to_owned(), |hint| format!("{hint}; or {other}")))
            }
            Self::Gateway(GatewayError::Key) => None,
            Self::Listen {
                what,
                address,
                source,
            } => {
                let flag = if *what == "dashboard" {
                    "`--dashboard`"
                } else {
                    "`--listen`"
                };
                let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
                port.map(|port| listen_hint(source, "tcp", port, flag))
            }
            Self::PublicUrl { .. } => Some("name one with `--public-url`".to_owned()),
        }
    }
}

fn listen_hint(source: &io::Error, transport: &str, port: u16, flag: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            let which = if transport == "udp" { "-lunp" } else { "-ltnp" };
            format!(
                "`ss {which} 'sport = :{port}'` names the process that has it; or choose another with {flag}"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need a privilege; choose another with {flag}")
        }
        _ => format!("choose an address of this machine with {flag}"),
    }
}

fn also_hint(source: &io::Error, address: SocketAddr) -> String {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return "ports below 1024 need a privilege: CAP_NET_BIND_SERVICE (a line in systemd's unit, or `setcap`), or the \
                sysctl net.ipv4.ip_unprivileged_port_start; or choose a higher one with `also_listen` in [tunnel]"
            .to_owned();
    }
    listen_hint(source, "udp", address.port(), "`also_listen` in [tunnel]")
}
