//! What a page says of the fleet: rows and a moment in, words out. No template decides anything.
//!
//! Every word that a device chose (messages, models, versions) passes `text::clean` here and is escaped by the
//! template after that: it can neither break the page nor pretend to be part of it.

mod device;
mod text;

use jiff::Timestamp;

pub(super) use self::device::Device;
use crate::fleet::DeviceRow;

/// The list and the counts above it.
#[derive(Debug)]
pub(super) struct FleetPage {
    pub(super) total: usize,
    pub(super) counts: Vec<Count>,
    pub(super) devices: Vec<Device>,
}

/// How many devices are in one state.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) badge: Badge,
    pub(super) number: usize,
}

/// A word with a colour and a shape, so that none of the three stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Badge {
    pub(super) word: &'static str,
    pub(super) tone: Tone,
}

/// What a state means to the person who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Progress,
    Warning,
    Bad,
    Idle,
    Away,
    Unknown,
    Revoked,
}

/// The states that a device can be in, in the order of the counts; whether a count of nought is worth its place.
const STATES: [(&str, Tone, bool); 8] = [
    ("healthy", Tone::Good, true),
    ("starting", Tone::Progress, true),
    ("unhealthy", Tone::Bad, true),
    ("offline", Tone::Away, true),
    ("idle", Tone::Idle, false),
    ("never seen", Tone::Away, false),
    ("unknown", Tone::Unknown, false),
    ("revoked", Tone::Revoked, false),
];

impl FleetPage {
    /// The page about `rows` as it reads at `now`, in the order of the devices' names.
    pub(super) fn new(mut rows: Vec<DeviceRow>, now: Timestamp) -> Self {
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let counts = STATES
            .into_iter()
            .map(|(word, tone, always)| {
                let number = rows.iter().filter(|row| row.state() == word).count();
                (
                    Count {
                        badge: Badge { word, tone },
                        number,
                    },
                    always,
                )
            })
            .filter(|(count, always)| *always || count.number > 0)
            .map(|(count, _)| count)
            .collect();
        let devices: Vec<Device> = rows.iter().map(|row| Device::new(row, now)).collect();
        Self {
            total: devices.len(),
            counts,
            devices,
        }
    }
}

impl Badge {
    /// The badge of a device's state.
    fn of_state(word: &'static str) -> Self {
        let tone = STATES
            .iter()
            .find(|(state, _, _)| *state == word)
            .map_or(Tone::Unknown, |(_, tone, _)| *tone);
        Self { word, tone }
    }
}

impl Tone {
    /// The class that the style sheet knows.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Progress => "progress",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Idle => "idle",
            Self::Away => "away",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
        }
    }

    /// The outline of its shape in a box of 16 by 16, filled by the even-odd rule.
    pub(super) fn shape(self) -> &'static str {
        match self {
            // A disc with a tick.
            Self::Good => "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1ZM4.1 8.2l2.8 2.9 5.1-5.2-1.1-1.1-4 4.1-1.7-1.8Z",
            // A disc, half full.
            Self::Progress => "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1ZM8 2.6a5.4 5.4 0 0 0 0 10.8Z",
            // A triangle with an exclamation mark.
            Self::Warning => "M8 1 15.6 14.6H.4ZM7.2 6h1.6v4.4H7.2ZM7.2 11.6h1.6v1.6H7.2Z",
            // An octagon with an exclamation mark.
            Self::Bad => {
                "M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1ZM7.2 4h1.6v5H7.2ZM7.2 10.4h1.6V12H7.2Z"
            }
            // A disc with two bars.
            Self::Idle => "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1ZM5.4 5h1.8v6H5.4ZM8.8 5h1.8v6H8.8Z",
            // A ring.
            Self::Away => "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1ZM8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3Z",
            // A hollow diamond.
            Self::Unknown => "M8 .8 15.2 8 8 15.2.8 8ZM8 3.6 3.6 8 8 12.4 12.4 8Z",
            // A disc with one bar across.
            Self::Revoked => "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1ZM4 7.1h8v1.8H4Z",
        }
    }
}
