//! How far the other end lets in.

/// The other end's window.
#[derive(Debug)]
pub(super) struct Window {
    /// Shift of its field.
    scale: u8,
    /// Its right edge, and the largest that it was.
    edge: u64,
    widest: u64,
    /// Where the segment was, and what it acknowledged, that told it last (RFC 9293: SND.WL1, SND.WL2).
    told: (i128, u64),
}

impl Window {
    /// As the SYN has it, in which it is not shifted.
    pub(super) fn new(first: u16, scale: u8) -> Self {
        Self {
            scale,
            edge: first.into(),
            widest: first.into(),
            told: (i128::MIN, 0),
        }
    }

    pub(super) fn edge(&self) -> u64 {
        self.edge
    }

    pub(super) fn widest(&self) -> u64 {
        self.widest
    }

    /// Takes the `field` of a segment that lies `at` among those of the other end and acknowledges what is before
    /// `acknowledged`, where all before `before` was. True when its right edge moves on.
    pub(super) fn note(&mut self, field: u16, at: i128, acknowledged: u64, before: u64) -> bool {
        let edge = acknowledged + (u64::from(field) << self.scale);
        let news = (at, acknowledged);
        let (last, until) = self.told;
        // What acknowledges more is newer, even where its own bytes are sent again.
        let is_newer = acknowledged > before;
        if !is_newer && (at < last || (at == last && acknowledged < until)) {
            return false;
        }
        // Of two that cannot be told apart the further one counts: the other may have been overtaken.
        let edge = if news == self.told {
            edge.max(self.edge)
        } else {
            edge
        };
        self.told = news;
        let opens = edge > self.edge;
        self.edge = edge;
        self.widest = self.widest.max(edge.saturating_sub(acknowledged));
        opens
    }
}
