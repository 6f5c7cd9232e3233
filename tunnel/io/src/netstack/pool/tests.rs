use super::*;

fn pattern(at: u64, len: usize) -> Vec<u8> {
    (at..at + len as u64).map(|at| (at % 251) as u8).collect()
}

fn read(queue: &mut Queue) -> Vec<u8> {
    let mut read = Vec::new();
    while !queue.is_empty() {
        let len = queue.front().len();
        read.extend_from_slice(queue.front());
        queue.consume(len);
    }
    read
}

#[test]
fn a_queue_keeps_the_order_and_gives_everything_back() {
    let pool = Arc::new(Pool::new(1 << 20));
    let (mut one, mut other) = (Queue::new(Arc::clone(&pool)), Queue::new(Arc::clone(&pool)));
    let mut at = 0;
    for len in [1, 7, 4000, 5000, 100, 12_000, 4096, 3] {
        one.push(&pattern(at, len));
        at += len as u64;
        other.take_block(&mut one);
    }
    other.take_all(&mut one);
    assert_eq!((one.len(), other.end()), (0, at));
    let mut part = vec![0; 9000];
    other.copy(3000, &mut part);
    assert_eq!(part, pattern(3000, 9000));
    other.consume(2500);
    other.copy(3000, &mut part);
    assert_eq!(part, pattern(3000, 9000), "places stay what they were");
    assert_eq!(read(&mut other), pattern(2500, at as usize - 2500));
    assert_eq!(pool.taken(), 0);
}

#[test]
fn many_small_writes_do_not_take_a_block_each() {
    let pool = Arc::new(Pool::new(1 << 20));
    let (mut written, mut kept) = (Queue::new(Arc::clone(&pool)), Queue::new(Arc::clone(&pool)));
    for _ in 0..1000 {
        written.push(&[7; 10]);
        kept.take_all(&mut written);
    }
    assert_eq!((kept.len(), pool.taken()), (10_000, 3 * BLOCK));
}

#[test]
fn islands_become_one_stream() {
    let pool = Arc::new(Pool::new(1 << 20));
    let (mut islands, mut queue) = (Islands::new(Arc::clone(&pool)), Queue::new(Arc::clone(&pool)));
    for (start, len) in [
        (9000, 1000),
        (5000, 10),
        (20_000, 1),
        (9500, 3000),
        (5010, 90),
        (4990, 20),
    ] {
        assert!(islands.insert(start, &pattern(start, len)));
    }
    let ranges: Vec<_> = islands.iter().collect();
    assert_eq!(ranges, [(4990, 5100), (9000, 12_500), (20_000, 20_001)]);
    assert_eq!(islands.around(12_499), Some((9000, 12_500)));
    assert_eq!(islands.around(12_500), None);
    assert_eq!(islands.take(0, &mut queue), 0, "nothing is there yet");
    queue.push(&pattern(0, 5050));
    assert_eq!(islands.take(5050, &mut queue), 5100);
    queue.push(&pattern(5100, 14_900));
    assert_eq!(islands.take(20_000, &mut queue), 20_001);
    assert!(islands.is_empty());
    assert_eq!(read(&mut queue), pattern(0, 20_001));
    assert_eq!(pool.taken(), 0);
}

#[test]
fn islands_are_bounded_in_number() {
    let pool = Arc::new(Pool::new(1 << 30));
    let mut islands = Islands::new(Arc::clone(&pool));
    let fits = (0..2 * MAX_ISLANDS as u64)
        .filter(|number| islands.insert(2 * number, &[1]))
        .count();
    assert_eq!(fits, MAX_ISLANDS);
    assert!(islands.insert(1, &[1]), "what closes a gap always fits");
    drop(islands);
    assert_eq!(pool.taken(), 0);
}
