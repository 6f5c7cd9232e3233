//! Which way the registry is reached: directly, or through the device's own tunnel.
//!
//! A device whose network lets out nothing but the gateway's UDP port has only the second; one whose tunnel does not rise has
//! only the first. The direct way is tried first and given [`HEAD_START`]; then both are under way, and the first
//! session that stands is taken: a way on which something answers that is not the registry is no way. The other
//! attempt is dropped before it has said anything but its Noise handshake. A session stays on its way until it ends.
//!
//! A registry that is restarted takes its gateway with it: the direct way is refused at once, and the tunnel carries nothing.
//! So while the way through the tunnel is waited for, a direct way that was refused is tried again, after pauses with full
//! jitter (1 s doubling to [`AGAIN_MAX`]).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use orfe_core::backoff::Backoff;
use orfe_protocol::desired::Tunnel;
use orfe_protocol::key::NoisePrivateKey;
use orfe_tunnel::dial::Dialer;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Connection, LinkError, RegistryAddress, connect};

/// How long the direct way is alone: more than TCP, TLS and the upgrade take on a path of 200 ms.
const HEAD_START: Duration = Duration::from_secs(1);

/// How long an attempt waits for a tunnel that is rising.
const RISING: Duration = Duration::from_secs(20);

/// Wait before the tunnel is dialled again.
const AGAIN: Duration = Duration::from_millis(250);

/// Longest pause before a direct way that was refused is tried again. A fleet of 10 000 devices that lost its registry sends
/// it 5 000 SYNs a second at most, and each is refused by its kernel.
const AGAIN_MAX: Duration = Duration::from_secs(4);

/// How the TCP connection to the registry is made.
#[derive(Clone)]
pub(crate) enum Way {
    /// To the address in the registry's URL, through the machine owner's proxy where there is one.
    Direct,
    /// Through the tunnel, to where the registry answers inside.
    Tunnel {
        dialer: Arc<dyn Dialer>,
        registry: SocketAddr,
    },
}

/// The daemon's tunnel, as far as it leads to the registry.
#[derive(Clone)]
pub(crate) struct InnerWay {
    pub(crate) desired: watch::Receiver<Option<Tunnel>>,
    pub(crate) dialers: watch::Receiver<Option<Arc<dyn Dialer>>>,
}

impl fmt::Debug for InnerWay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("InnerWay")
            .field("registry", &self.registry())
            .finish_non_exhaustive()
    }
}

impl InnerWay {
    /// Opens a session on the way that works.
    pub(super) async fn connect(
        &self,
        registry: &RegistryAddress,
        key: &NoisePrivateKey,
    ) -> Result<Connection, LinkError> {
        let mut direct = Box::pin(connect(registry, &Way::Direct, key));
        let early = timeout(HEAD_START, &mut direct).await;
        let Some(inside) = self.registry() else {
            return match early {
                Ok(result) => result,
                Err(_) => direct.await,
            };
        };
        let through = Box::pin(self.through(inside, registry, key));
        match early {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(direct)) => first(Box::pin(directly_again(direct, registry, key)), through).await,
            Err(_) => first(direct, through).await,
        }
    }

    /// Where the registry answers inside the tunnel that is desired.
    fn registry(&self) -> Option<SocketAddr> {
        self.desired.borrow().as_ref()?.gateway.registry
    }

    /// Opens a session through the tunnel; waits while it rises.
    async fn through(
        &self,
        inside: SocketAddr,
        registry: &RegistryAddress,
        key: &NoisePrivateKey,
    ) -> Result<Connection, LinkError> {
        let mut last = LinkError::Silent {
            address: inside.to_string(),
            step: "waiting for the tunnel",
        };
        let attempts = async {
            loop {
                let dialer = self.dialers.borrow().clone();
                if let Some(dialer) = dialer {
                    let way = Way::Tunnel {
                        dialer,
                        registry: inside,
                    };
                    match connect(registry, &way, key).await {
                        Err(error @ (LinkError::Inside(_) | LinkError::Silent { .. })) => last = error,
                        Ok(connection) => {
                            tracing::info!(%inside, "the registry is reached through the tunnel");
                            return Ok(connection);
                        }
                        Err(error) => return Err(error),
                    }
                }
                sleep(AGAIN).await;
            }
        };
        let settled = timeout(RISING, attempts).await;
        settled.unwrap_or(Err(last))
    }
}

/// Tries the direct way again as long as it is refused, [`RISING`] at most.
async fn directly_again(
    failed: LinkError,
    registry: &RegistryAddress,
    key: &NoisePrivateKey,
) -> Result<Connection, LinkError> {
    let mut last = failed;
    let mut pauses = Backoff::new(Duration::from_secs(1), AGAIN_MAX);
    let mut rng = StdRng::from_os_rng();
    let attempts = async {
        while let LinkError::Connect { .. } = last {
            sleep(pauses.next(&mut rng)).await;
            match connect(registry, &Way::Direct, key).await {
                Ok(connection) => return Some(connection),
                Err(error) => last = error,
            }
        }
        None
    };
    let settled = timeout(RISING, attempts).await;
    settled.ok().flatten().ok_or(last)
}

/// The first of both that gives a session.
async fn first(
    mut direct: impl Future<Output = Result<Connection, LinkError>> + Unpin,
    mut through: impl Future<Output = Result<Connection, LinkError>> + Unpin,
) -> Result<Connection, LinkError> {
    tokio::select! {
        result = &mut direct => match result {
            Ok(connection) => Ok(connection),
            Err(direct) => through.await.map_err(|inside| neither(direct, inside)),
        },
        result = &mut through => match result {
            Ok(connection) => Ok(connection),
            Err(inside) => direct.await.map_err(|direct| neither(direct, inside)),
        },
    }
}

fn neither(direct: LinkError, inside: LinkError) -> LinkError {
    LinkError::NeitherWay {
        direct: Box::new(direct),
        inside: Box::new(inside),
    }
}
