//! The search by mutation finds what is there to be found, and the same again from the same seed.

use orfe_replay::mutate::{Mutator, search};

const SEED: u64 = 7;

fn corpus() -> Vec<Vec<u8>> {
    vec![
        b"length=4 data".to_vec(),
        b"length=16 data and more".to_vec(),
        Vec::new(),
    ]
}

/// Wrong for a byte that no input of the corpus has, in a place that none has it.
fn wrong_for_a_null(bytes: &[u8]) {
    assert!(bytes.get(3) != Some(&0), "a null in the fourth place");
}

fn never_wrong(_: &[u8]) {}

fn after(inputs: u64) -> impl FnMut() -> bool {
    let mut left = inputs;
    move || {
        let goes_on = left > 0;
        left = left.saturating_sub(1);
        goes_on
    }
}

#[test]
fn a_mistake_near_the_corpus_is_found() {
    let found = search(
        wrong_for_a_null,
        &mut Mutator::new(corpus(), SEED),
        after(100_000),
    )
    .unwrap_err();
    assert_eq!(found.input[3], 0);
    let again = search(
        wrong_for_a_null,
        &mut Mutator::new(corpus(), SEED),
        after(100_000),
    )
    .unwrap_err();
    assert_eq!(again, found);
}

#[test]
fn inputs_differ_and_keep_within_bounds() {
    let mut mutator = Mutator::new(vec![vec![b'x'; 4096]], SEED);
    let inputs: std::collections::BTreeSet<Vec<u8>> = (0..200).map(|_| mutator.next_input()).collect();
    assert!(inputs.len() > 150, "{} different inputs of 200", inputs.len());
    assert!(inputs.iter().all(|input| input.len() <= 4096));
    assert_eq!(
        search(never_wrong, &mut Mutator::new(Vec::new(), SEED), after(50)),
        Ok(50)
    );
}
