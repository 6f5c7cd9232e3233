//! The shell of one slot: its proxy and its child.
//!
//! Each slot has a proxy of its own, with a port and a credential of its own, so a connection tells by itself whose it is.
//! Port and credential are kept on disk: a child reads its proxy variables once, and one that outlives the daemon must
//! find the next daemon's proxy where the last one's was.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE32_NOPAD;
use orfe_core::agent::{ChildPlan, Input};
use orfe_core::child::{self, Sign};
use orfe_core::slot::Exit;
use orfe_platform::private;
use orfe_platform::process::ProcessId;
use orfe_protocol::secret::Secret;
use orfe_supervisor::{Child, ChildHandle, Event, LogFile, LogSpec};
use orfe_tunnel::dial::Dialer;
use orfe_tunnel::proxy::{ConnectionTable, Filter, Host, Proxy, ProxyConfig, ProxyError, Routes, Target};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::probes::find_program;
use super::spec::{self, Folders, Place};
use crate::config::Config;
use crate::failure::{Failure, one_line};
use crate::state::{Seat, StateFolder};

/// What a proxy is started with.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) routes: watch::Receiver<Arc<Routes>>,
    pub(super) dialer: watch::Receiver<Option<Arc<dyn Dialer>>>,
}

/// One slot; see the module's text.
#[derive(Debug)]
pub(super) struct SlotShell {
    number: u8,
    folders: Folders,
    proxy: Proxy,
    credential: Secret,
    /// Where the running child's Coder is.
    coder: Option<Target>,
    child: Option<ChildHandle>,
    /// Ends the task that counts connections, with the shell.
    watcher: CancellationToken,
}

impl SlotShell {
    /// Makes the slot's folders and opens its proxy, where it was before if that can be.
    pub(super) async fn open(state: &StateFolder, number: u8, ways: &Ways) -> Result<Self, Failure> {
        let folders = Folders {
            root: state.slot(number),
        };
        for folder in [
            &state.path().join("slots"),
            &folders.root,
            &folders.home(),
            &folders.cache(),
            &folders.tmp(),
        ] {
            private::create_dir(folder)?;
        }
        let (proxy, credential) = open_proxy(state, number, ways).await?;
        Ok(Self {
            number,
            folders,
            proxy,
            credential,
            coder: None,
            child: None,
            watcher: CancellationToken::new(),
        })
    }

    pub(super) fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Starts the child and the tasks that listen to it. Gives its identity.
    pub(super) fn spawn(
        &mut self,
        plan: &ChildPlan,
        config: &Config,
        inputs: &mpsc::Sender<Input>,
        tasks: &TaskTracker,
    ) -> Result<ProcessId, String> {
        let program = find_program(config.coder.value.as_os_str(), &config.path.value).ok_or_else(|| {
            let coder = &config.coder.value;
            let place = if coder.is_absolute() {
                "there"
            } else {
                "on the PATH"
            };
            format!(
                "no program `{}` is {place} (install the server's version of it, or name it as `coder` in \
                     `[provisioner]` of {})",
                coder.display(),
                config.file.value.display()
            )
        })?;
        let bundle = self.write_ca_bundle(plan).map_err(|failure| one_line(&failure))?;
        let log = LogFile::open(LogSpec::new(self.folders.log())).map_err(|error| one_line(&error.into()))?;
        let spec = spec::build(
            plan,
            Place {
                program,
                path: &config.path.value,
                folders: &self.folders,
                proxy_url: self.proxy.url(),
                proxy_credential: self.credential.expose().to_owned().into(),
                ca_bundle: bundle.as_deref(),
                variable: &|name| std::env::var_os(name),
            },
        );
        let child = Child::spawn(&spec).map_err(|error| {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let cause = std::error::Error::source(&error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            format!("{error}{cause}{hint}")
        })?;
        let id = child.identity();
        self.child = Some(child.handle());
        tasks.spawn(listen(self.number, child, log, inputs.clone()));
        self.watch_connections(plan, inputs, tasks);
        Ok(id)
    }

    fn watch_connections(&mut self, plan: &ChildPlan, inputs: &mpsc::Sender<Input>, tasks: &TaskTracker) {
        self.watcher.cancel();
        self.watcher = CancellationToken::new();
        self.coder = target(&plan.coder.url);
        let counting = count_connections(Counting {
            slot: self.number,
            // Go dials a Coder on this machine's loopback past every proxy; there only the child's lines tell.
            target: self.coder.clone().filter(|_| !plan.coder.is_past_proxies()),
            events: self.proxy.subscribe(),
            table: self.proxy.table(),
            inputs: inputs.clone(),
        });
        let watcher = self.watcher.clone();
        tasks.spawn(async move { watcher.run_until_cancelled(counting).await });
    }

    fn write_ca_bundle(&self, plan: &ChildPlan) -> Result<Option<std::path::PathBuf>, Failure> {
        let Some(ca_pem) = &plan.coder.ca_pem else {
            return Ok(None);
        };
        let mut bundle = system_certificates().unwrap_or_default();
        bundle.push_str("\n# Orfe: the authority of this deployment's Coder\n");
        bundle.push_str(ca_pem);
        let path = self.folders.ca_bundle();
        private::write(&path, bundle.as_bytes())?;
        Ok(Some(path))
    }

    /// Asks the child to finish its job and go.
    pub(super) fn drain(&self) {
        if let Some(child) = &self.child
            && let Err(error) = child.drain()
        {
            tracing::warn!(slot = self.number, %error, "the provisioner cannot be told to drain");
        }
    }

    /// Ends the child's whole tree.
    pub(super) fn kill(&self, tasks: &TaskTracker) {
        if let Some(child) = self.child.clone() {
            let slot = self.number;
            tasks.spawn(async move {
                if let Err(error) = child.kill_tree().await {
                    tracing::error!(slot, %error, "processes of the provisioner do not end");
                }
            });
        }
    }

    /// Cuts the child's connections to Coder.
    pub(super) fn cut(&self) {
        let filter = self
            .coder
            .as_ref()
            .map_or(Filter::All, |target| Filter::Host(target.host.clone()));
        let cut = self.proxy.cut(&filter);
        tracing::info!(slot = self.number, cut, "cut the provisioner's connections");
    }

    /// The child is gone.
    pub(super) fn ended(&mut self) {
        self.child = None;
        self.watcher.cancel();
        // What the child leaves behind is of no use to the next one. Failing is no harm but space.
        if let Err(error) = empty(&self.folders.tmp()) {
            tracing::debug!(slot = self.number, %error, "temporary files stay");
        }
    }

    pub(super) async fn close(self) {
        self.watcher.cancel();
        self.proxy.shutdown().await;
    }
}

async fn open_proxy(state: &StateFolder, number: u8, ways: &Ways) -> Result<(Proxy, Secret), Failure> {
    let seat = state.proxy_seat(number)?;
    let credential = match &seat {
        Some(seat) => seat.credential.clone(),
        None => new_credential()?,
    };
    let ports = [seat.as_ref().map(|seat| seat.port), Some(0)];
    let mut last = None;
    for port in ports.into_iter().flatten() {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let config = ProxyConfig::new(listen, credential.expose().to_owned().into());
        match Proxy::start(config, ways.routes.clone(), ways.dialer.clone()).await {
            Ok(proxy) => {
                let seat = Seat {
                    port: proxy.local_addr().port(),
                    credential: credential.clone(),
                };
                state.store_proxy_seat(number, &seat)?;
                return Ok((proxy, credential));
            }
            // Somebody else took the port while nobody of us listened; another one does as well.
            Err(error @ ProxyError::Bind { .. }) => last = Some(error),
            Err(error) => return Err(Failure::new("the local proxy cannot be started").because(error)),
        }
    }
    let failure = Failure::new("the local proxy finds no free port on 127.0.0.1");
    Err(match last {
        Some(error) => failure.because(error),
        None => failure,
    })
}

pub(super) fn new_credential() -> Result<Secret, Failure> {
    let mut bytes = zeroize::Zeroizing::new([0; 20]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| Failure::new("the system gives no random bytes").because(error))?;
    Ok(Secret::new(BASE32_NOPAD.encode(bytes.as_slice()).to_lowercase()))
}

/// Reads the child's output until it ends, then ends what it left behind.
async fn listen(slot: u8, mut child: Child, mut log: LogFile, inputs: mpsc::Sender<Input>) {
    let handle = child.handle();
    while let Some(event) = child.next_event().await {
        let input = match event {
            Event::Line(line) => {
                let sign = child::read(&line.text);
                // What belongs to somebody's build is private and stays out of the log.
                if sign != Sign::BuildOutput {
                    log.append(&line.text);
                }
                if sign == Sign::Other || sign == Sign::BuildOutput {
                    continue;
                }
                Input::ChildSign { slot, sign }
            }
            Event::Dropped { lines } => {
                tracing::warn!(slot, lines, "lines of the provisioner were not read in time");
                continue;
            }
            Event::Exited(status) => {
                // terraform shares nothing with us but the tree; a child that crashed leaves it running.
                if let Err(error) = handle.kill_tree().await {
                    tracing::error!(slot, %error, "processes of the provisioner do not end");
                }
                // What it means for the slot is logged with the change of its state.
                tracing::debug!(
                    slot,
                    code = status.code,
                    signal = status.signal,
                    "the provisioner ended"
                );
                Input::ChildExited {
                    slot,
                    exit: Exit {
                        code: status.code,
                        signal: status.signal,
                    },
                }
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

struct Counting {
    slot: u8,
    /// Whose connections count; none where the child does not dial through the proxy.
    target: Option<Target>,
    events: broadcast::Receiver<orfe_tunnel::proxy::Event>,
    table: ConnectionTable,
    inputs: mpsc::Sender<Input>,
}

/// How long after the child last sent something it is looked whether it did again: keepalives come every 30 s, and the core's
/// patience ends after 50 s. So there is one look for each keepalive.
const LOOK_AFTER: Duration = Duration::from_secs(40);
/// And how often while it sends nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Tells the core how many connections to Coder are open, whenever that changes, and whether the child sends anything.
async fn count_connections(mut counting: Counting) {
    let slot = counting.slot;
    let Some(target) = counting.target.clone() else {
        // Nothing can be seen of it; the child's lines are taken at their word.
        let _ = counting.inputs.send(Input::Connections { slot, open: 1 }).await;
        return;
    };
    let (mut told, mut told_sent) = (None, None);
    loop {
        let open = counting.table.established(&target);
        if told != Some(open) {
            told = Some(open);
            if counting
                .inputs
                .send(Input::Connections { slot, open })
                .await
                .is_err()
            {
                return;
            }
        }
        let sent_at = counting.table.sent_at(&target);
        if let Some(at) = sent_at
            && sent_at > told_sent
        {
            told_sent = sent_at;
            if counting.inputs.send(Input::Moved { slot, at }).await.is_err() {
                return;
            }
        }
        let again = Instant::now() + LOOK_AGAIN;
        let look = told_sent.map_or(again, |at| again.max(at + LOOK_AFTER));
        tokio::select! {
            // A receiver that lagged only missed events; the count is read anew in any case.
            event = counting.events.recv() => if matches!(event, Err(broadcast::error::RecvError::Closed)) {
                return;
            },
            () = sleep_until(look.into()) => {}
        }
    }
}

fn target(url: &Url) -> Option<Target> {
    let port = url.port_or_known_default()?;
    let host = Host::parse(url.host_str()?).ok()?;
    Some(Target { host, port })
}

/// Where Linux distributions keep the bundle of trusted certificates; the list that Go looks through.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The certificates that the child would trust by itself: naming a file of our own takes the place of them.
fn system_certificates() -> Option<String> {
    let own = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    let files = own.into_iter().chain(BUNDLES.iter().map(OsString::from));
    files
        .into_iter()
        .find_map(|file| std::fs::read_to_string(file).ok())
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs_err::remove_dir_all(entry.path())?;
        } else {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_has_the_schemes_port() {
        assert_eq!(
            target(&"https://coder.example.com".parse().unwrap())
                .unwrap()
                .to_string(),
            "coder.example.com:443"
        );
        assert_eq!(
            target(&"http://coder.example.com:8080".parse().unwrap())
                .unwrap()
                .port,
            8080
        );
    }

    #[test]
    fn emptying_takes_all_but_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("c"), "").unwrap();
        empty(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
