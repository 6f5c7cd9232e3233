//! The Noise session inside the WebSocket (sans-IO).
//!
//! `Noise_IK_25519_ChaChaPoly_BLAKE2s` (Noise Protocol Framework, revision 34, §7.5), prologue
//! `orfe-agent-v1`. The device initiates; it knows the registry's static key from its join code, and the
//! registry learns the device's in the first message. Both handshake payloads are empty: the first message can be
//! replayed by whoever terminates TLS in between, so nothing of weight may stand in it.
//!
//! ```text
//! Initiator::start ──message 1──► Responder::accept ──message 2──► Initiator::finish
//!                                      │                               │
//!                                   Channel  ◄──── frames ────►     Channel
//! ```
//!
//! A [`Channel`] turns messages of up to [`MESSAGE_MAX`] bytes into frames of at most [`FRAME_MAX`] and back. Noise
//! counts frames, so an altered, repeated, dropped or reordered frame fails to open; after one failure
//! the channel is dead, because nothing after it can be told from an attack.

use snow::{Builder, HandshakeState, TransportState};
use zeroize::Zeroizing;

use crate::key::{KEY_LEN, NoisePrivateKey, NoisePublicKey};

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"orfe-agent-v1";

/// Largest Noise message (Noise Protocol Framework §3), and so the largest WebSocket message of a session.
pub const FRAME_MAX: usize = 65_535;

/// Largest message that a session carries, in bytes of JSON.
pub const MESSAGE_MAX: usize = 256 * 1024;

const TAG_LEN: usize = 16;
const FLAG_LEN: usize = 1;
const PART_MAX: usize = FRAME_MAX - TAG_LEN - FLAG_LEN;
const MORE: u8 = 0;
const LAST: u8 = 1;

/// Why a session could not be made or went on no longer.
#[derive(Debug, thiserror::Error)]
pub enum NoiseError {
    /// The other end is not who the keys say, or the bytes were changed on their way.
    #[error("the handshake does not fit the keys")]
    Handshake(#[source] snow::Error),
    #[error("a frame was altered, repeated, dropped or reordered on its way")]
    Frame(#[source] snow::Error),
    #[error("a frame of {len} bytes; {FRAME_MAX} is the most")]
    FrameTooLong { len: usize },
    #[error("a message of more than {MESSAGE_MAX} bytes")]
    MessageTooLong,
    #[error("a frame without a valid part flag")]
    Flag,
    #[error("the session ended with an earlier error")]
    Dead,
    #[error("the Noise session could not be set up")]
    Setup(#[source] snow::Error),
}

fn builder(key: &NoisePrivateKey) -> Result<Builder<'_>, NoiseError> {
    let params = PATTERN.parse().map_err(NoiseError::Setup)?;
    Builder::new(params)
        .local_private_key(key.expose())
        .and_then(|builder| builder.prologue(PROLOGUE))
        .map_err(NoiseError::Setup)
}

/// The device's half of a handshake that waits for the registry's answer.
pub struct Initiator(HandshakeState);

impl Initiator {
    /// Begins a handshake with the registry that holds `registry`; the bytes are the first frame.
    pub fn start(key: &NoisePrivateKey, registry: &NoisePublicKey) -> Result<(Self, Vec<u8>), NoiseError> {
        let mut state = builder(key)?
            .remote_public_key(registry.as_bytes())
            .and_then(Builder::build_initiator)
            .map_err(NoiseError::Setup)?;
        let mut frame = vec![0; 2 * KEY_LEN + 2 * TAG_LEN];
        let len = state
            .write_message(&[], &mut frame)
            .map_err(NoiseError::Handshake)?;
        frame.truncate(len);
        Ok((Self(state), frame))
    }

    /// Takes the registry's answer; from then on the session stands.
    pub fn finish(mut self, frame: &[u8]) -> Result<Channel, NoiseError> {
        self.0
            .read_message(frame, &mut vec![0; frame.len()])
            .map_err(NoiseError::Handshake)?;
        self.0
            .into_transport_mode()
            .map(Channel::new)
            .map_err(NoiseError::Handshake)
    }
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Initiator")
    }
}

/// What the registry has after the first frame.
#[derive(Debug)]
pub struct Accepted {
    /// Who is there. It has not yet proved to be alive: only the first frame through `channel` does.
    pub device: NoisePublicKey,
    /// The frame to answer with.
    pub answer: Vec<u8>,
    pub channel: Channel,
}

/// The registry's half: takes the first frame and answers it.
pub fn accept(key: &NoisePrivateKey, frame: &[u8]) -> Result<Accepted, NoiseError> {
    let mut state = builder(key)?.build_responder().map_err(NoiseError::Setup)?;
    let mut payload = vec![0; frame.len()];
    let len = state
        .read_message(frame, &mut payload)
        .map_err(NoiseError::Handshake)?;
    if len != 0 {
        return Err(NoiseError::Handshake(snow::Error::Input));
    }
    let device = state
        .get_remote_static()
        .and_then(|bytes| <[u8; KEY_LEN]>::try_from(bytes).ok())
        .map(NoisePublicKey::from_bytes)
        .ok_or(NoiseError::Handshake(snow::Error::Input))?;
    let mut answer = vec![0; KEY_LEN + TAG_LEN];
    let len = state
        .write_message(&[], &mut answer)
        .map_err(NoiseError::Handshake)?;
    answer.truncate(len);
    let channel = state
        .into_transport_mode()
        .map(Channel::new)
        .map_err(NoiseError::Handshake)?;
    Ok(Accepted {
        device,
        answer,
        channel,
    })
}

/// An open session: seals messages into frames and opens frames into messages.
pub struct Channel {
    state: TransportState,
    partial: Zeroizing<Vec<u8>>,
    dead: bool,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Channel")
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

impl Channel {
    fn new(state: TransportState) -> Self {
        Self {
            state,
            partial: Zeroizing::default(),
            dead: false,
        }
    }

    /// The frames that carry `message`, to be sent in this order.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>, NoiseError> {
        if self.dead {
            return Err(NoiseError::Dead);
        }
        if message.len() > MESSAGE_MAX {
            return Err(NoiseError::MessageTooLong);
        }
        let mut frames = Vec::with_capacity(message.len() / PART_MAX + 1);
        let mut rest = message;
        loop {
            let (part, tail) = rest.split_at(rest.len().min(PART_MAX));
            let flag = if tail.is_empty() { LAST } else { MORE };
            frames.push(self.seal_part(flag, part)?);
            rest = tail;
            if rest.is_empty() {
                return Ok(frames);
            }
        }
    }

    fn seal_part(&mut self, flag: u8, part: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let mut plain = Zeroizing::new(Vec::with_capacity(FLAG_LEN + part.len()));
        plain.push(flag);
        plain.extend_from_slice(part);
        let mut frame = vec![0; plain.len() + TAG_LEN];
        let len = self
            .state
            .write_message(&plain, &mut frame)
            .map_err(|error| self.die(NoiseError::Frame(error)))?;
        frame.truncate(len);
        Ok(frame)
    }

    /// Takes one frame; returns the message when this was its last part.
    pub fn open(&mut self, frame: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, NoiseError> {
        if self.dead {
            return Err(NoiseError::Dead);
        }
        if frame.len() > FRAME_MAX {
            return Err(self.die(NoiseError::FrameTooLong { len: frame.len() }));
        }
        let mut plain = Zeroizing::new(vec![0; frame.len()]);
        let len = self
            .state
            .read_message(frame, &mut plain)
            .map_err(|error| self.die(NoiseError::Frame(error)))?;
        let Some((&flag, part)) = plain[..len].split_first() else {
            return Err(self.die(NoiseError::Flag));
        };
        if self.partial.len() + part.len() > MESSAGE_MAX {
            return Err(self.die(NoiseError::MessageTooLong));
        }
        self.partial.extend_from_slice(part);
        match flag {
            MORE => Ok(None),
            LAST => Ok(Some(std::mem::take(&mut self.partial))),
            _ => Err(self.die(NoiseError::Flag)),
        }
    }

    fn die(&mut self, error: NoiseError) -> NoiseError {
        self.dead = true;
        self.partial = Zeroizing::default();
        error
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> (Channel, Channel, NoisePublicKey, NoisePublicKey) {
        let device = NoisePrivateKey::generate().unwrap();
        let registry = NoisePrivateKey::generate().unwrap();
        let (initiator, first) = Initiator::start(&device, &registry.public_key()).unwrap();
        let accepted = accept(&registry, &first).unwrap();
        let channel = initiator.finish(&accepted.answer).unwrap();
        (channel, accepted.channel, device.public_key(), accepted.device)
    }

    fn carry(from: &mut Channel, to: &mut Channel, message: &[u8]) -> Zeroizing<Vec<u8>> {
        let frames = from.seal(message).unwrap();
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            assert!(to.open(frame).unwrap().is_none());
        }
        to.open(last).unwrap().unwrap()
    }

    #[test]
    fn the_registry_learns_who_is_there_and_both_can_speak() {
        let (mut device, mut registry, key, seen) = session();
        assert_eq!(key, seen);
        for size in [0, 1, PART_MAX, PART_MAX + 1, MESSAGE_MAX] {
            let message: Vec<u8> = (0..size).map(|i| i as u8).collect();
            assert_eq!(*carry(&mut device, &mut registry, &message), message);
            assert_eq!(*carry(&mut registry, &mut device, &message), message);
        }
    }

    #[test]
    fn the_wrong_registry_cannot_answer() {
        let device = NoisePrivateKey::generate().unwrap();
        let (pinned, other) = (
            NoisePrivateKey::generate().unwrap(),
            NoisePrivateKey::generate().unwrap(),
        );
        let (_, first) = Initiator::start(&device, &pinned.public_key()).unwrap();
        assert!(matches!(accept(&other, &first), Err(NoiseError::Handshake(_))));
    }

    #[test]
    fn a_replayed_first_frame_opens_nothing() {
        let device = NoisePrivateKey::generate().unwrap();
        let registry = NoisePrivateKey::generate().unwrap();
        let (initiator, first) = Initiator::start(&device, &registry.public_key()).unwrap();
        let accepted = accept(&registry, &first).unwrap();
        let mut channel = initiator.finish(&accepted.answer).unwrap();
        let frames = channel.seal(b"hello").unwrap();
        // The replayer gets an answer, but no frame recorded from the first session opens in the second.
        let mut replayed = accept(&registry, &first).unwrap();
        assert!(matches!(
            replayed.channel.open(&frames[0]),
            Err(NoiseError::Frame(_))
        ));
    }

    #[test]
    fn altered_repeated_dropped_and_reordered_frames_end_the_session() {
        let attack = |change: &dyn Fn(Vec<Vec<u8>>) -> Vec<Vec<u8>>| {
            let (mut device, mut registry, ..) = session();
            let mut frames = device.seal(b"one").unwrap();
            frames.extend(device.seal(b"two").unwrap());
            let mut outcome = Ok(());
            for frame in change(frames) {
                outcome = registry.open(&frame).map(|_| ());
                if outcome.is_err() {
                    break;
                }
            }
            assert!(matches!(outcome, Err(NoiseError::Frame(_))));
            // And it stays ended, also for a frame that would have been good.
            let next = device.seal(b"three").unwrap();
            assert!(matches!(registry.open(&next[0]), Err(NoiseError::Dead)));
        };
        attack(&|mut frames| {
            frames[0][3] ^= 1;
            frames
        });
        attack(&|frames| vec![frames[0].clone(), frames[0].clone()]);
        attack(&|frames| vec![frames[1].clone()]);
        attack(&|frames| vec![frames[1].clone(), frames[0].clone()]);
        attack(&|mut frames| {
            frames[0].truncate(5);
            frames
        });
    }

    #[test]
    fn a_message_may_not_grow_without_end() {
        let (mut device, mut registry, ..) = session();
        assert!(matches!(
            device.seal(&vec![0; MESSAGE_MAX + 1]),
            Err(NoiseError::MessageTooLong)
        ));
        let part = vec![0; PART_MAX];
        let mut outcome = Ok(None);
        for _ in 0..=MESSAGE_MAX / PART_MAX {
            let frame = device.seal_part(MORE, &part).unwrap();
            outcome = registry.open(&frame);
        }
        assert!(matches!(outcome, Err(NoiseError::MessageTooLong)));
    }

    #[test]
    fn an_unknown_flag_ends_the_session() {
        let (mut device, mut registry, ..) = session();
        let frame = device.seal_part(9, b"x").unwrap();
        assert!(matches!(registry.open(&frame), Err(NoiseError::Flag)));
    }

    proptest! {
        #[test]
        fn no_first_frame_makes_the_registry_panic(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let registry = NoisePrivateKey::generate().unwrap();
            prop_assert!(accept(&registry, &frame).is_err());
        }
    }
}
