//! Who may have a session, and what is desired of who has one.

use jiff::Timestamp;
use orfe_protocol::desired::DesiredState;
use orfe_protocol::id::Revision;
use orfe_protocol::key::NoisePublicKey;
use orfe_protocol::message::{FromRegistry, Hello, Refused, RefusedReason, Welcome};
use orfe_store::Device;

use super::{Connection, Standing};
use crate::fleet::NotBegun;
use crate::session::{Closing, Output};

impl Connection {
    pub(super) async fn begin(&mut self, key: NoisePublicKey, hello: &Hello) -> Vec<Output> {
        let (device, desired) = match self.admit(key, hello).await {
            Ok(admitted) => admitted,
            Err(refused) => return self.session.begun(Err(refused)),
        };
        let (epoch, version) = (device.session_epoch, &hello.agent_version);
        tracing::info!(device = %device.name, device_id = %device.id, epoch, version, "session begins");
        let welcome = Welcome {
            device: device.id,
            name: device.name,
            session_epoch: epoch,
            heartbeat_ms: u64::try_from(self.shared.heartbeat().as_millis()).unwrap_or(u64::MAX),
            server_time: Timestamp::now(),
        };
        let mut outputs = self.session.begun(Ok(welcome));
        if desired.revision != hello.desired {
            outputs.extend(self.session.say(&FromRegistry::Desired(Box::new(desired))));
        }
        outputs
    }

    /// Who this is, with a session that stands from now on, and what is desired of it.
    async fn admit(&mut self, key: NoisePublicKey, hello: &Hello) -> Result<(Device, DesiredState), Refused> {
        let devices = self.shared.store.devices();
        let device = devices
            .by_noise_key(&key)
            .await
            .map_err(|error| unavailable(&error))?;
        let Some(mut device) = device else {
            tracing::warn!(%key, "refused a device that is not enrolled");
            return Err(refused(
                RefusedReason::UnknownDevice,
                "this device is not enrolled; join with a join code",
            ));
        };
        let now = Timestamp::now();
        let epoch = devices
            .begin_session(device.id, now)
            .await
            .map_err(|error| unavailable(&error))?;
        device.session_epoch = epoch.ok_or_else(revoked)?;
        let desired = self.desired(&device, hello.desired).await?;

        self.handle.epoch = device.session_epoch;
        match self
            .shared
            .fleet
            .session_began(device.id, self.handle.clone(), now)
        {
            Ok(Some(older)) => older.close(Closing::REPLACED),
            Ok(None) => {}
            // In the moment since the store answered.
            Err(NotBegun::Revoked) => return Err(revoked()),
            Err(NotBegun::Overtaken) => {
                return Err(refused(
                    RefusedReason::Unavailable,
                    "a newer session of this device began meanwhile",
                ));
            }
        }
        self.standing = Some(Standing {
            id: device.id,
            name: device.name.clone(),
            epoch: device.session_epoch,
            told: desired.revision,
        });
        Ok((device, desired))
    }

    pub(super) async fn desired(
        &mut self,
        device: &Device,
        on_device: Revision,
    ) -> Result<DesiredState, Refused> {
        let plan = self.plan.borrow_and_update().clone();
        let mut desired = plan.for_device(device);
        let digest = self
            .shared
            .digester
            .digest(&desired)
            .map_err(|error| unavailable(&error))?;
        let revision = self
            .shared
            .store
            .devices()
            .desire(device.id, &digest, on_device)
            .await;
        desired.revision = revision
            .map_err(|error| unavailable(&error))?
            .ok_or_else(revoked)?;
        Ok(desired)
    }
}

pub(crate) fn refused(reason: RefusedReason, message: &str) -> Refused {
    Refused {
        reason,
        message: message.to_owned(),
    }
}

fn revoked() -> Refused {
    refused(
        RefusedReason::DeviceRevoked,
        "this device was revoked; join with a new join code and new keys",
    )
}

/// The device is told nothing of the reason; the log is.
pub(crate) fn unavailable(error: &(dyn std::error::Error + 'static)) -> Refused {
    tracing::error!(error = crate::chain(error), "a session could not be served");
    refused(
        RefusedReason::Unavailable,
        "the registry cannot do it now; try again later",
    )
}
