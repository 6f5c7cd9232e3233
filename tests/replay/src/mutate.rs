//! Inputs near the corpus, for where there is no libFuzzer: random changes, without knowledge of what they reach.
//!
//! It finds less than cargo-fuzz in the same time, but it needs nothing beyond the ordinary compiler, so that every run of the
//! stages looks at inputs that nobody has looked at before. The same corpus and seed give the same inputs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::Target;

/// The longest input, in bytes; what reads more than this reads it in pieces.
const LENGTH_MAX: usize = 4096;
/// Most changes to one input.
const CHANGES_MAX: u32 = 6;
/// Bytes that stand at a bound of something.
const EDGES: [u8; 12] = [0, 1, 2, 0x0a, 0x0d, 0x20, 0x2e, 0x3a, 0x7f, 0x80, 0xc0, 0xff];

/// Makes inputs.
#[derive(Debug)]
pub struct Mutator {
    corpus: Vec<Vec<u8>>,
    rng: StdRng,
}

/// An input on which a target panicked.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The input.
    pub input: Vec<u8>,
    /// How many inputs came before it.
    pub after: u64,
}

impl Mutator {
    /// An empty corpus is as good as one with an empty input.
    pub fn new(corpus: Vec<Vec<u8>>, seed: u64) -> Self {
        Self {
            corpus,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.of_corpus();
        for _ in 0..self.rng.random_range(1..=CHANGES_MAX) {
            self.change(&mut input);
            input.truncate(LENGTH_MAX);
        }
        input
    }

    fn of_corpus(&mut self) -> Vec<u8> {
        self.corpus.choose(&mut self.rng).cloned().unwrap_or_default()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.random_range(0..=input.len());
        match self.rng.random_range(0..7) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.rng.random_range(0..8);
                }
            }
            1 => {
                let edge = EDGES.choose(&mut self.rng).copied();
                if let (Some(byte), Some(edge)) = (input.get_mut(at), edge) {
                    *byte = edge;
                }
            }
            2 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = byte.wrapping_add_signed(self.rng.random_range(-8..=8));
                }
            }
            3 => input.insert(at, self.rng.random()),
            4 => {
                let end = self.rng.random_range(at..=input.len());
                input.drain(at..end);
            }
            // A piece of it once more, where it does not belong.
            5 => {
                let end = self.rng.random_range(at..=input.len());
                let piece = input[at..end].to_vec();
                let to = self.rng.random_range(0..=input.len());
                input.splice(to..to, piece);
            }
            // Its beginning, and the end of another.
            _ => {
                let other = self.of_corpus();
                let from = self.rng.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}

/// Gives the target input after input while `goes_on`; how many there were, or the first on which it panicked. The panic's own
/// words have gone where the panic hook puts them.
pub fn search(
    target: Target,
    mutator: &mut Mutator,
    mut goes_on: impl FnMut() -> bool,
) -> Result<u64, Found> {
    let mut tried = 0;
    while goes_on() {
        let input = mutator.next_input();
        // A target keeps nothing from one input to the next.
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            return Err(Found { input, after: tried });
        }
        tried += 1;
    }
    Ok(tried)
}
