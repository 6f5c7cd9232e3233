//! The driver's rings, through tun-rs.

use std::env;
use std::io;
use std::path::Path;

use tun_rs::{InterruptEvent, SyncDevice};

use super::Ring;
use crate::tun::device::{Interface, TunOptions, Waited, builder, interface};

/// The driver's library. It is looked for beside the program and nowhere else: what lies in a folder of the search path may be
/// anybody's, and this program has an administrator's rights.
const LIBRARY: &str = "wintun.dll";
/// By this the system knows the device again, and with it what its owner decided about the network behind it.
const IDENTITY: u128 = 0x6f72_6665_7475_4e00_8d5a_c1b2_93e4_7f10;
/// Bytes of each ring: several milliseconds of a fast link. What comes while it is full is lost.
const RING_BYTES: u32 = 8 << 20;

pub(super) struct Wintun {
    device: SyncDevice,
    interrupt: InterruptEvent,
}

impl Wintun {
    pub(super) fn create(options: &TunOptions) -> io::Result<(Self, Interface)> {
        let program = env::current_exe()?;
        let library = library_in(program.parent().unwrap_or(Path::new(".")))?;
        let device = builder(options)
            .name(options.name.as_str())
            .with(|builder| {
                builder.description("Orfe");
                builder.wintun_file(library.clone());
                builder.device_guid(IDENTITY);
                builder.ring_capacity(RING_BYTES);
            })
            .build_sync()?;
        let interface = interface(&device)?;
        let interrupt = InterruptEvent::new()?;
        Ok((Self { device, interrupt }, interface))
    }
}

impl Ring for Wintun {
    fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.try_recv(buffer)
    }

    fn put(&self, packet: &[u8]) -> io::Result<()> {
        self.device.try_send(packet).map(drop)
    }

    fn wait(&self) -> io::Result<Waited> {
        // The driver's event tells of what comes after the ring was found empty.
        match self.device.wait_readable_intr(&self.interrupt) {
            Ok(()) => Ok(Waited::Packet),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Waited::Stopped),
            Err(error) => Err(error),
        }
    }

    fn interrupt(&self) {
        if let Err(error) = self.interrupt.trigger() {
            tracing::error!(%error, "the thread of the tunnel's device cannot be told to end");
        }
    }
}

fn library_in(folder: &Path) -> io::Result<String> {
    let file = folder.join(LIBRARY);
    if !file.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} is missing", file.display()),
        ));
    }
    let text = file.to_str().map(str::to_owned);
    text.ok_or_else(|| io::Error::other(format!("{} is no text in Unicode", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_taken_from_beside_the_program_alone() {
        let folder = tempfile::tempdir().unwrap();
        let error = library_in(folder.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("wintun.dll is missing"), "{error}");
        let file = folder.path().join(LIBRARY);
        std::fs::write(&file, "").unwrap();
        assert_eq!(library_in(folder.path()).unwrap(), file.to_str().unwrap());
    }
}
