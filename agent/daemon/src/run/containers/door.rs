//! Where the door has to be for this engine, and its opening there.
//!
//! | the engine | the door | who gets to it |
//! |---|---|---|
//! | on this machine | a socket that is mounted into the forwarder | the forwarder |
//! | on this machine, `door = "tcp"` | a port at the gateway of the forwarder's network | what is on that network, every process here |
//! | in a machine of its own | a port on loopback, where that machine leads `host.docker.internal` to | every process here, every container there |
//!
//! A port asks for a credential. Both are kept on disk and stay the same, so that the forwarder need not be made anew
//! after a restart; where another program has taken the port meanwhile, it is another one.

use std::path::PathBuf;

use orfe_platform::private;
use orfe_protocol::secret::Secret;
use orfe_tunnel::BridgeAddress;
use orfe_tunnel::proxy::{Door, DoorError, Outlet, Place};
use zeroize::Zeroizing;

use super::Trouble;
use super::network::Network;
use crate::config::DoorChoice;
use crate::failure::{Failure, one_line};
use crate::run::slot::new_credential;
use crate::state::{Seat, read_or_set_aside};

/// Name of the socket in its folder.
pub(super) const SOCKET: &str = "door.sock";
/// What an engine takes for its machine's own address, in the place of an address.
const HOST_GATEWAY: &str = "host-gateway";

/// Whose machine the engine runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// It can mount what is here.
    Here,
    /// In a machine of its own.
    Elsewhere,
    /// The same, with a name server that knows `host.docker.internal`.
    Desktop,
}

/// Where the door is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Socket,
    Port {
        place: Place,
        /// What `host.docker.internal` is in the container; `None` where the engine knows it.
        host: Option<String>,
    },
}

/// How the forwarder gets to the door.
#[derive(Debug, Clone)]
pub(super) enum Entrance {
    /// The door's folder is mounted into the container.
    Mounted { folder: PathBuf },
    /// By a port of `host.docker.internal`.
    Port {
        port: u16,
        credential: Secret,
        /// What that name is in the container; `None` where the engine knows it.
        host: Option<String>,
    },
}

/// Keeps the one door where it has to be.
pub(super) struct DoorKeeper {
    pub(super) choice: DoorChoice,
    /// The folder that is mounted into the forwarder; it holds the socket and nothing else.
    pub(super) folder: PathBuf,
    /// The file with port and credential.
    pub(super) seat: PathBuf,
    pub(super) outlet: Outlet,
    pub(super) open: Option<OpenDoor>,
}

/// A door and where it is.
pub(super) struct OpenDoor {
    at: At,
    door: Door,
    entrance: Entrance,
}

impl DoorKeeper {
    /// Sees to it that the door is where this engine needs it, and says how its containers get there.
    pub(super) async fn ensure(&mut self, home: Home, network: &Network) -> Result<Entrance, Trouble> {
        let at = self.place(home, network);
        if let Some(open) = self.open.as_ref().filter(|open| open.at == at) {
            return Ok(open.entrance.clone());
        }
        self.close().await;
        let (door, entrance) = self
            .open_at(&at)
            .await
            .map_err(|failure| Trouble::Failed(one_line(&failure)))?;
        self.open = Some(OpenDoor {
            at,
            door,
            entrance: entrance.clone(),
        });
        Ok(entrance)
    }

    pub(super) async fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.door.shutdown().await;
        }
    }

    fn place(&self, home: Home, network: &Network) -> At {
        let has_port = match self.choice {
            DoorChoice::Auto => home != Home::Here,
            DoorChoice::Socket => false,
            DoorChoice::Tcp => true,
        };
        if !has_port {
            return At::Socket;
        }
        let gateway = network.gateway();
        let bridge = gateway.and_then(|gateway| BridgeAddress::find(gateway, &network.device));
        let (place, host) = match (home, bridge) {
            (Home::Desktop, _) => (Place::Loopback, None),
            (_, Some(bridge)) => {
                let host = bridge.address().to_string();
                (Place::Bridge(bridge), Some(host))
            }
            // Its bridge is not here, so it is in a machine of its own, whatever it says.
            (_, None) => (Place::Loopback, Some(HOST_GATEWAY.to_owned())),
        };
        At::Port { place, host }
    }

    async fn open_at(&self, at: &At) -> Result<(Door, Entrance), Failure> {
        match at {
            At::Socket => {
                private::create_dir(&self.folder)?;
                let door = self.socket()?;
                let folder = self.folder.clone();
                Ok((door, Entrance::Mounted { folder }))
            }
            At::Port { place, host } => {
                let (door, seat) = self.port(place).await?;
                let entrance = Entrance::Port {
                    port: seat.port,
                    credential: seat.credential,
                    host: host.clone(),
                };
                Ok((door, entrance))
            }
        }
    }

    #[cfg(unix)]
    fn socket(&self) -> Result<Door, Failure> {
        Door::at_socket(&self.folder.join(SOCKET), self.outlet.clone()).map_err(cannot)
    }

    #[cfg(not(unix))]
    fn socket(&self) -> Result<Door, Failure> {
        Err(
            Failure::new("this system has no unix sockets that containers could use")
                .hint("choose `auto` or `tcp` for containers.door".to_owned()),
        )
    }

    async fn port(&self, place: &Place) -> Result<(Door, Seat), Failure> {
        let known: Option<Seat> = read_or_set_aside(&self.seat)?;
        let credential = match &known {
            Some(seat) => seat.credential.clone(),
            None => new_credential()?,
        };
        let secret = credential.expose().to_owned().into();
        if let Some(seat) = known {
            match Door::at_port(place, seat.port, &secret, self.outlet.clone()).await {
                Ok((door, port)) => return Ok((door, Seat { port, ..seat })),
                // Somebody else took the port while nobody of us listened; another one does as well.
                Err(DoorError::Port { .. }) => {}
                Err(error) => {
                    return Err(
                        cannot(error).hint(format!("remove {}; it is made anew", self.seat.display()))
                    );
                }
            }
        }
        let (door, port) = Door::at_port(place, 0, &secret, self.outlet.clone())
            .await
            .map_err(cannot)?;
        let seat = Seat { port, credential };
        let json = serde_json::to_vec_pretty(&seat)
            .map_err(|error| Failure::new("port and credential cannot be written").because(error))?;
        private::write(&self.seat, &Zeroizing::new(json))?;
        Ok((door, seat))
    }
}

fn cannot(error: DoorError) -> Failure {
    Failure::new("the door for containers cannot be opened").because(error)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use orfe_tunnel::proxy::{Limits, Routes};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::watch;

    use super::super::network::Subnet;
    use super::*;

    fn keeper(choice: DoorChoice, state: &std::path::Path) -> DoorKeeper {
        let routes = watch::channel(Arc::new(Routes::default())).1;
        DoorKeeper {
            choice,
            folder: state.join("containers"),
            seat: state.join("door.json"),
            outlet: Outlet::new(Limits::default(), routes, watch::channel(None).1),
            open: None,
        }
    }

    fn network(device: &str) -> Network {
        Network {
            id: "1".to_owned(),
            device: device.to_owned(),
            subnets: vec![Subnet {
                range: "127.0.0.0/8".to_owned(),
                gateway: Some(Ipv4Addr::LOCALHOST.into()),
            }],
        }
    }

    #[test]
    fn the_place_follows_from_the_choice_and_from_where_the_engine_is() {
        let place = |choice, home, device: &str| {
            keeper(choice, "/nonexistent".as_ref()).place(home, &network(device))
        };
        let loopback = |host: Option<&str>| At::Port {
            place: Place::Loopback,
            host: host.map(ToOwned::to_owned),
        };
        assert_eq!(place(DoorChoice::Auto, Home::Here, "lo"), At::Socket);
        assert_eq!(place(DoorChoice::Socket, Home::Desktop, "lo"), At::Socket);
        assert_eq!(place(DoorChoice::Auto, Home::Desktop, "br-gone"), loopback(None));
        let elsewhere = loopback(Some("host-gateway"));
        assert_eq!(place(DoorChoice::Auto, Home::Elsewhere, "br-gone"), elsewhere);
        assert_eq!(place(DoorChoice::Tcp, Home::Here, "br-gone"), elsewhere);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_bridge_that_is_here_is_listened_on() {
        let keeper = keeper(DoorChoice::Tcp, "/nonexistent".as_ref());
        let bridge = BridgeAddress::find(Ipv4Addr::LOCALHOST.into(), "lo").unwrap();
        let expected = At::Port {
            place: Place::Bridge(bridge),
            host: Some("127.0.0.1".to_owned()),
        };
        assert_eq!(keeper.place(Home::Here, &network("lo")), expected);
        // Its name server would not know of it.
        assert_ne!(keeper.place(Home::Desktop, &network("lo")), expected);
    }

    #[tokio::test]
    async fn port_and_credential_stay_the_same_and_strangers_hear_nothing() {
        let state = tempfile::tempdir().unwrap();
        let mut keeper = keeper(DoorChoice::Auto, state.path());
        let mut seats = Vec::new();
        for _ in 0..2 {
            let entrance = keeper.ensure(Home::Desktop, &network("br-gone")).await.unwrap();
            assert!(!format!("{entrance:?}").contains(seat(&entrance).1.expose()));
            let again = keeper.ensure(Home::Desktop, &network("br-gone")).await.unwrap();
            assert_eq!(seat(&again), seat(&entrance));
            let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, seat(&entrance).0))
                .await
                .unwrap();
            stranger
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut answer = Vec::new();
            stranger.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"");
            seats.push(seat(&entrance));
            keeper.close().await;
        }
        assert_eq!(seats[0], seats[1]);
        // From one place to the other.
        let entrance = keeper.ensure(Home::Here, &network("br-gone")).await.unwrap();
        assert!(
            matches!(entrance, Entrance::Mounted { .. })
                && state.path().join("containers/door.sock").exists()
        );
        assert!(
            TcpStream::connect((Ipv4Addr::LOCALHOST, seats[0].0))
                .await
                .is_err()
        );
        keeper.close().await;
    }

    fn seat(entrance: &Entrance) -> (u16, Secret) {
        match entrance {
            Entrance::Port { port, credential, .. } => (*port, credential.clone()),
            Entrance::Mounted { .. } => panic!("a socket"),
        }
    }
}
