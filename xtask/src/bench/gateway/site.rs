//! A gateway with its devices and the servers behind it, as processes of this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use orfe_test_support::lab::ends::{Tcp, proxy_of, tcp_of};
use orfe_test_support::lab::program::Program;
use orfe_test_support::load::{Direction, Job, ProxySpec, Work};
use orfe_tunnel_core::{PrivateKey, PublicKey, Shard};
use serde_json::{Value, json};

use super::{Case, END, LOAD};
use crate::bench::load;
use crate::bench::proc::Process;
use crate::demo::artifacts::Programs;

/// How long a program may take to be ready, or to read a counter.
const PATIENCE: Duration = Duration::from_secs(20);
/// Not counted, at the beginning of a flow.
const WARM_UP: Duration = Duration::from_secs(1);
/// The port that devices ask for.
const SERVICE: u16 = 5201;

/// One flow of all devices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub(super) gbit_s: f64,
    /// Of the gateway alone.
    pub(super) cpu_s_per_gb: f64,
    pub(super) cores: f64,
    pub(super) rss_mib: f64,
}

/// A gateway with its devices, and a server behind it for each.
pub(super) struct Site {
    gateway: Program,
    /// What the gateway got.
    pub(super) tcp: Tcp,
    devices: Vec<Device>,
    load: PathBuf,
    folder: tempfile::TempDir,
}

/// A device, and the server that it speaks to.
struct Device {
    end: Program,
    proxy: ProxySpec,
    server: Program,
    name: String,
}

impl Site {
    pub(super) async fn start(programs: &Programs, devices: u8, case: Case) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for logs")?;
        let (end, load) = (programs.path(END)?, programs.path(LOAD)?);
        let mut servers = Vec::new();
        for number in 0..devices {
            servers.push(serve(load, number, folder.path()).await?);
        }
        let keys = spread_keys(devices, case.threads);
        let mut gateway = Program::start(Command::new(end), "gateway", folder.path())?;
        let key = PrivateKey::generate();
        let config = gateway_config(&key, case, &keys, &servers);
        let ready = gateway
            .ask(&config.to_string(), PATIENCE)
            .await
            .context("the gateway does not start")?;
        let endpoint = ready["listen"]
            .as_str()
            .context("the gateway does not say where it is")?
            .to_owned();
        let tcp = tcp_of(&ready)?.context("the gateway does not say what its TCP is")?;
        let mut site = Self {
            gateway,
            tcp,
            devices: Vec::new(),
            load: load.to_owned(),
            folder,
        };
        for ((number, own), (server, _)) in (0..devices).zip(&keys).zip(servers) {
            let config = device_config(number, own, key.public_key(), &endpoint);
            let mut program =
                Program::start(Command::new(end), &format!("device-{number}"), site.folder.path())?;
            let ready = program
                .ask(&config.to_string(), PATIENCE)
                .await
                .context("a device does not start")?;
            let proxy = proxy_of(&ready)?.context("a device has no proxy")?;
            site.devices.push(Device {
                end: program,
                proxy,
                server,
                name: name(number),
            });
        }
        Ok(site)
    }

    /// As much as goes on one stream of each device, counted by the receivers.
    pub(super) async fn flow(&mut self, direction: Direction, time: Duration) -> Result<Figure> {
        let gateway = Process(self.gateway.pid().context("the gateway has ended")?);
        let mut drivers = Vec::new();
        for device in &self.devices {
            drivers.push(drive(&self.load, device, direction, self.folder.path()).await?);
        }
        tokio::time::sleep(WARM_UP).await;
        let (bytes, before, begun) = (
            self.received(&mut drivers, direction).await?,
            gateway.read()?,
            Instant::now(),
        );
        tokio::time::sleep(time).await;
        let (later, after, elapsed) = (
            self.received(&mut drivers, direction).await?,
            gateway.read()?,
            begun.elapsed(),
        );
        for driver in drivers {
            driver.kill().await;
        }
        let bytes = later.saturating_sub(bytes) as f64;
        let cpu_s = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e9;
        Ok(Figure {
            gbit_s: bytes * 8.0 / 1e9 / elapsed.as_secs_f64(),
            cpu_s_per_gb: cpu_s / (bytes / 1e9),
            cores: cpu_s / elapsed.as_secs_f64(),
            rss_mib: after.peak_rss_bytes as f64 / 1024.0 / 1024.0,
        })
    }

    /// Bytes that have arrived so far, of all devices together.
    async fn received(&mut self, drivers: &mut [Program], direction: Direction) -> Result<u64> {
        let receivers = match direction {
            Direction::Up => self
                .devices
                .iter_mut()
                .map(|device| &mut device.server)
                .collect::<Vec<_>>(),
            Direction::Down => drivers.iter_mut().collect(),
        };
        let mut sum = 0;
        for receiver in receivers {
            sum += load::received(receiver).await?;
        }
        Ok(sum)
    }

    pub(super) async fn stop(self) {
        for device in self.devices {
            device.end.stop().await;
            device.server.stop().await;
        }
        self.gateway.stop().await;
    }
}

/// A server of the load, and where it listens.
async fn serve(load: &Path, number: u8, logs: &Path) -> Result<(Program, SocketAddr)> {
    let mut command = Command::new(load);
    command.args(["serve", "127.0.0.1:0"]);
    let mut program = Program::start(command, &format!("server-{number}"), logs)?;
    let said = program.hear(PATIENCE).await?;
    let address = said["listening"]
        .as_str()
        .with_context(|| format!("no address in {said}"))?;
    Ok((program, address.parse()?))
}

/// A stream of `device` that carries as much as goes.
async fn drive(load: &Path, device: &Device, direction: Direction, logs: &Path) -> Result<Program> {
    let mut command = Command::new(load);
    command.arg("drive");
    let mut program = Program::start(command, &format!("load-{}", device.name), logs)?;
    let job = Job {
        to: format!("{}:{SERVICE}", device.name),
        proxy: Some(device.proxy.clone()),
        work: Work::Flow {
            streams: 1,
            direction,
        },
    };
    program.ask(&serde_json::to_string(&job)?, PATIENCE).await?;
    Ok(program)
}

/// Keys of devices that are spread evenly over the gateway's threads.
fn spread_keys(devices: u8, threads: u8) -> Vec<PrivateKey> {
    let of_thread = |thread: u8| {
        let owner = Shard::new(thread, threads);
        // A key in `threads` fits.
        std::iter::repeat_with(PrivateKey::generate)
            .find(|key| owner.is_none_or(|owner| owner.owns(&key.public_key())))
    };
    (0..devices)
        .filter_map(|number| of_thread(number % threads))
        .collect()
}

fn gateway_config(
    key: &PrivateKey,
    case: Case,
    devices: &[PrivateKey],
    servers: &[(Program, SocketAddr)],
) -> Value {
    let peer = |(number, device): (u8, &PrivateKey)| {
        json!({
            "public_key": device.public_key().to_string(),
            "allowed_ips": [format!("{}/32", inner(number))],
        })
    };
    let entry = |(number, (_, address)): (u8, &(Program, SocketAddr))| {
        json!({
            "name": name(number),
            "address": behind(number).to_string(),
            "ports": { SERVICE.to_string(): address },
        })
    };
    json!({
        "mode": "gateway",
        "private_key": *key.to_base64(),
        "listen": "127.0.0.1:0",
        "addresses": ["10.98.255.1/16"],
        "threads": case.threads,
        "tcp_stack": case.tcp_stack.as_str(),
        "peers": (0..).zip(devices).map(peer).collect::<Vec<_>>(),
        "policy": (0..).zip(servers).map(entry).collect::<Vec<_>>(),
    })
}

fn device_config(number: u8, own: &PrivateKey, gateway: PublicKey, endpoint: &str) -> Value {
    json!({
        "mode": "userspace",
        "tcp_stack": "smoltcp",
        "private_key": *own.to_base64(),
        "listen": "127.0.0.1:0",
        "addresses": [format!("{}/16", inner(number))],
        "peers": [{
            "public_key": gateway.to_string(),
            "endpoint": endpoint,
            "allowed_ips": ["10.97.0.0/16"],
            "keepalive": 25,
        }],
        "proxy": {
            "listen": "127.0.0.1:0",
            "names": { name(number): { "address": behind(number).to_string(), "ports": [SERVICE] } },
        },
    })
}

/// What the service of the device with this number is called.
fn name(number: u8) -> String {
    format!("service-{number}.example")
}

/// The device's address inside.
const fn inner(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 98, 0, number + 1))
}

/// The address that its service has inside.
const fn behind(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 97, 0, number + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_gets_its_share_of_the_devices() {
        for threads in 1..=4 {
            let keys = spread_keys(8, threads);
            assert_eq!(keys.len(), 8);
            for thread in 0..threads {
                let shard = Shard::new(thread, threads).unwrap();
                let owned = keys.iter().filter(|key| shard.owns(&key.public_key())).count();
                let expected = (0..8).filter(|number| number % threads == thread).count();
                assert_eq!(owned, expected, "thread {thread} of {threads}");
            }
        }
    }
}
