//! The order in which a peer's sessions came about, and which of them is the newest that was proved to work.
//!
//! The numbers of sessions do not tell it: an engine counts every initiation in 8 bits, so that those which nobody answered move
//! them as well, and after some minutes without the peer a newer session has any number. What tells it is what this node saw:
//!
//! - An answer to our handshake makes a session and proves it, and it is newer than all before. An engine takes one to either of
//!   its latest two initiations; that to the earlier one may come last, and then is older.
//! - A handshake that we answer makes a session that is proved later, by data: whoever asks may never get the answer.

use crate::message;

/// Sessions that we answered and nobody proved, of which data may still prove one. An engine has no more of them.
const MAX_ANSWERED: usize = 8;

/// Sessions by their local index.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// That of our latest initiation, until it is answered.
    asked: Option<u32>,
    /// Made since the newest that was proved, in answer to the peer's initiations; oldest first.
    answered: Vec<u32>,
    /// The newest on which something authentic arrived.
    proved: Option<u32>,
}

impl Sessions {
    /// We made this initiation.
    pub(super) fn note_initiation(&mut self, initiation: &[u8]) {
        self.asked = message::sender(initiation);
    }

    /// We answered the peer's initiation by this response.
    pub(super) fn note_response(&mut self, response: &[u8]) {
        let Some(index) = message::sender(response) else {
            return;
        };
        // A number that comes again replaces its session.
        self.answered.retain(|answered| *answered != index);
        if self.answered.len() >= MAX_ANSWERED {
            self.answered.remove(0);
        }
        self.answered.push(index);
    }

    /// Our initiation was answered; true when the session is newer than any that was proved.
    pub(super) fn prove_by_answer(&mut self, index: u32) -> bool {
        // The later initiation was answered already.
        let Some(asked) = self.asked else { return false };
        if asked == index {
            self.asked = None;
        }
        self.answered.clear();
        self.proved = Some(index);
        true
    }

    /// Data arrived; true when the session is newer than any that was proved.
    pub(super) fn prove_by_data(&mut self, index: u32) -> bool {
        let Some(at) = self.answered.iter().position(|answered| *answered == index) else {
            return false;
        };
        self.answered.drain(..=at);
        self.proved = Some(index);
        true
    }

    /// Whether no newer session than this was proved.
    pub(super) fn is_newest(&self, index: u32) -> bool {
        self.proved.is_none_or(|proved| proved == index) || self.answered.contains(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initiation(index: u32) -> Vec<u8> {
        let mut bytes = vec![0; message::INITIATION_LEN];
        bytes[0] = 1;
        bytes[4..8].copy_from_slice(&index.to_le_bytes());
        bytes
    }

    fn response(index: u32) -> Vec<u8> {
        let mut bytes = vec![0; message::RESPONSE_LEN];
        bytes[0] = 2;
        bytes[4..8].copy_from_slice(&index.to_le_bytes());
        bytes
    }

    #[test]
    fn an_answer_to_the_latest_initiation_is_newer_whatever_its_number() {
        for index in 0..=0xff {
            let mut sessions = Sessions::default();
            sessions.note_initiation(&initiation(7));
            assert!(sessions.prove_by_answer(7));
            sessions.note_initiation(&initiation(index));
            assert!(sessions.prove_by_answer(index), "{index}");
            assert!(sessions.is_newest(index));
        }
    }

    #[test]
    fn an_answer_to_the_earlier_of_two_initiations_is_newer_if_it_comes_first() {
        for (first, second) in [(4, 5), (255, 0)] {
            let mut sessions = Sessions::default();
            sessions.note_initiation(&initiation(first));
            sessions.note_initiation(&initiation(second));
            let mut overtaken = Sessions::default();
            overtaken.note_initiation(&initiation(second));

            assert!(sessions.prove_by_answer(first));
            assert!(sessions.prove_by_answer(second));
            assert!(overtaken.prove_by_answer(second));
            assert!(!overtaken.prove_by_answer(first));
            assert!(sessions.is_newest(second) && overtaken.is_newest(second));
        }
    }

    #[test]
    fn data_proves_what_was_answered_and_nothing_older() {
        let mut sessions = Sessions::default();
        for index in [250, 3, 7] {
            sessions.note_response(&response(index));
        }
        assert!(sessions.prove_by_data(3));
        assert!(!sessions.prove_by_data(250), "made before");
        assert!(!sessions.is_newest(250));
        assert!(sessions.is_newest(3) && sessions.is_newest(7));
        assert!(!sessions.prove_by_data(3), "no news");

        sessions.note_initiation(&initiation(8));
        assert!(sessions.prove_by_answer(8));
        assert!(!sessions.prove_by_data(7));
        assert!(!sessions.is_newest(3) && !sessions.is_newest(7));
    }

    #[test]
    fn what_is_answered_and_never_proved_is_bounded_and_a_number_may_come_again() {
        let mut sessions = Sessions::default();
        sessions.note_response(&response(9));
        assert!(sessions.prove_by_data(9));
        for lost in 0..600_u32 {
            sessions.note_response(&response((10 + lost) % 256));
            assert!(sessions.answered.len() <= MAX_ANSWERED);
        }
        let latest = (10 + 599) % 256;
        sessions.note_response(&response(9));
        assert!(sessions.prove_by_data(latest));
        assert!(sessions.prove_by_data(9), "a new session with an old number");
    }
}
