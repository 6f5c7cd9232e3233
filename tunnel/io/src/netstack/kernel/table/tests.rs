use super::*;

fn flow(port: u16) -> Flow {
    Flow {
        local: "100.127.0.1:443".parse().unwrap(),
        remote: ([100, 64, 0, 1], port).into(),
    }
}

fn segment(change: impl FnOnce(&mut Segment)) -> Segment {
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[9] = 6;
    packet[32] = 5 << 4;
    let mut segment = Segment::parse(&packet).unwrap();
    change(&mut segment);
    segment
}

fn fin(next_sequence: u32) -> Segment {
    segment(|segment| {
        segment.is_fin = true;
        segment.next_sequence = next_sequence;
    })
}

fn ack(number: u32) -> Segment {
    segment(|segment| segment.acknowledged = Some(number))
}

#[test]
fn it_is_over_when_both_ends_have_arrived() {
    let (mut table, now) = (Table::default(), Instant::now());
    // Numbers of the sequence wrap.
    let end = 3_u32.wrapping_sub(5);
    let number = table.insert(flow(1), now);
    table.get_mut(number).unwrap().note_outgoing(&fin(end), now);
    table.get_mut(number).unwrap().note_incoming(&fin(9), now);
    table.leave(number, now);
    assert_eq!(table.poll_over(now), None, "our end has not arrived");
    table.get_mut(number).unwrap().note_incoming(&ack(end - 1), now);
    table.settle(number);
    assert_eq!(table.poll_over(now), None, "only what is before it has");
    table.get_mut(number).unwrap().note_incoming(&ack(1), now);
    table.settle(number);
    assert_eq!(
        table.poll_over(now),
        None,
        "the kernel has yet to acknowledge the peer's"
    );
    table.get_mut(number).unwrap().note_outgoing(&ack(9), now);
    table.settle(number);
    assert_eq!(table.poll_over(now), Some((flow(1), number)));
    assert_eq!((table.poll_over(now), table.owned()), (None, 0));
    assert_eq!(table.poll_cut(), None, "the kernel knows");
}

#[test]
fn a_reset_ends_it_unless_the_kernel_goes_on() {
    let (mut table, now) = (Table::default(), Instant::now());
    let reset = segment(|segment| segment.is_reset = true);
    let number = table.insert(flow(1), now);
    table.get_mut(number).unwrap().note_incoming(&reset, now);
    table.settle(number);
    assert_eq!(table.poll_over(now), None, "its stream is still there");
    table.get_mut(number).unwrap().note_outgoing(&ack(1), now);
    table.leave(number, now);
    assert_eq!(table.poll_over(now), None, "it went on");
    table.get_mut(number).unwrap().note_outgoing(&reset, now);
    table.settle(number);
    assert_eq!(table.poll_over(now), Some((flow(1), number)));
    assert_eq!(table.poll_cut(), None, "the kernel said so itself");
}

#[test]
fn silence_ends_it_and_packets_put_that_off() {
    let (mut table, now) = (Table::default(), Instant::now());
    let number = table.insert(flow(1), now);
    assert_eq!(
        table.poll_over(now + 100 * SILENCE),
        None,
        "a stream may be silent"
    );
    table.leave(number, now);
    let later = now + SILENCE / 2;
    table.get_mut(number).unwrap().note_outgoing(&ack(1), later);
    assert_eq!(table.poll_over(now + SILENCE), None);
    assert_eq!(table.poll_over(later + SILENCE), Some((flow(1), number)));
}

#[test]
fn those_that_were_left_are_bounded_and_numbers_go_round() {
    let (mut table, now) = (Table::default(), Instant::now());
    let first = table.insert(flow(1), now);
    table.leave(first, now);
    for port in 0..MAX_LEFT {
        let number = table.insert(flow(port as u16), now);
        table.leave(number, now);
    }
    assert_eq!(table.poll_over(now), Some((flow(1), first)));
    assert_eq!(table.owned(), MAX_LEFT);

    table.last = Some(Number((1 << 24) - 1));
    let number = table.insert(flow(1), now);
    assert_eq!(number, first, "its number is free again");
    table.last = Some(Number((1 << 24) - 1));
    assert_ne!(table.insert(flow(2), now), number);
}

#[test]
fn one_that_ends_slowly_outlives_any_number_that_end_in_order() {
    let (mut table, now) = (Table::default(), Instant::now());
    let slow = table.insert(flow(1), now);
    table.leave(slow, now);
    for port in 0..=2 * MAX_LEFT {
        let number = table.insert(flow(port as u16), now);
        let carried = table.get_mut(number).unwrap();
        carried.note_incoming(&fin(9), now);
        carried.note_outgoing(&fin(9), now);
        carried.note_outgoing(&ack(9), now);
        carried.note_incoming(&ack(9), now);
        table.leave(number, now);
        assert_eq!(table.poll_over(now), Some((flow(port as u16), number)));
    }
    assert!(
        table.get(slow).is_some(),
        "its end has yet to hear what is on its way"
    );
    assert_eq!(table.left.len(), 1);
    assert_eq!(table.poll_over(now + SILENCE), Some((flow(1), slow)));
    assert!(table.left.first().is_none());
}

#[test]
fn all_end_at_once_when_nothing_passes_any_more() {
    let (mut table, now) = (Table::default(), Instant::now());
    let (open, left, disowned) = (
        table.insert(flow(1), now),
        table.insert(flow(2), now),
        table.insert(flow(3), now),
    );
    table.leave(left, now);
    table.leave(disowned, now);
    table.disown(disowned);
    table.end_all();
    let mut over: Vec<_> = std::iter::from_fn(|| table.poll_over(now)).collect();
    over.sort_by_key(|(_, number)| *number);
    assert_eq!(over, [(flow(1), open), (flow(2), left)]);
    assert_eq!(table.owned(), 0);
    assert_eq!(table.poll_over(now + 2 * SILENCE), None);
}

#[test]
fn those_that_others_replace_take_nobodys_place() {
    let (mut table, now) = (Table::default(), Instant::now());
    let slow = table.insert(flow(1), now);
    table.leave(slow, now);
    for _ in 0..=2 * MAX_LEFT {
        let number = table.insert(flow(2), now);
        table.leave(number, now);
        table.disown(number);
        table.finish(number);
    }
    assert!(table.get(slow).is_some());
    assert_eq!((table.left.len(), table.owned(), table.disowned), (1, 1, 0));
    assert_eq!(table.poll_over(now), None);
}

#[test]
fn nobody_hears_of_the_end_of_a_disowned_one() {
    let (mut table, now) = (Table::default(), Instant::now());
    let number = table.insert(flow(1), now);
    table.leave(number, now);
    table.disown(number);
    assert_eq!(table.owned(), 0);
    assert_eq!(table.poll_over(now + SILENCE), None);
    assert!(table.get(number).is_none());
    assert_eq!(table.owned(), 0);
}

#[test]
fn the_kernel_is_told_of_what_is_over_before_its_end() {
    let (mut table, now) = (Table::default(), Instant::now());
    let cut = |number, port, expected| {
        Some(Cut {
            number,
            flow: flow(port),
            expected,
        })
    };
    let silent = table.insert(flow(1), now);
    table.get_mut(silent).unwrap().note_outgoing(&ack(7), now);
    table.get_mut(silent).unwrap().note_outgoing(&fin(100), now);
    table.leave(silent, now);
    assert_eq!((table.poll_over(now), table.poll_cut()), (None, None));
    assert_eq!(table.poll_over(now + SILENCE), Some((flow(1), silent)));
    assert_eq!(table.poll_cut(), cut(silent, 1, 7));

    let replaced = table.insert(flow(2), now);
    table.get_mut(replaced).unwrap().note_outgoing(&ack(8), now);
    table.leave(replaced, now);
    table.disown(replaced);
    table.finish(replaced);
    assert_eq!(table.poll_cut(), cut(replaced, 2, 8));

    // The kernel may not believe it.
    let reset = segment(|segment| segment.is_reset = true);
    let reset_by_peer = table.insert(flow(3), now);
    table.get_mut(reset_by_peer).unwrap().note_outgoing(&ack(9), now);
    table.leave(reset_by_peer, now);
    table.get_mut(reset_by_peer).unwrap().note_incoming(&reset, now);
    table.settle(reset_by_peer);
    assert_eq!(table.poll_over(now), Some((flow(3), reset_by_peer)));
    assert_eq!(table.poll_cut(), cut(reset_by_peer, 3, 9));
    assert_eq!(table.poll_cut(), None);
}

#[test]
fn who_has_most_makes_room() {
    let (mut table, now) = (Table::default(), Instant::now());
    let of = |peer, port| Flow {
        remote: ([100, 64, 1, peer], port).into(),
        ..flow(1)
    };
    let modest = table.insert(of(0, 1), now);
    table.leave(modest, now);
    // Five peers that fill it together, as often as they like.
    for round in 0..2 {
        for number in 0..MAX_LEFT {
            let peer = (number % 5) as u8 + 1;
            let port = (round * MAX_LEFT + number) as u16;
            let number = table.insert(of(peer, port), now);
            table.leave(number, now);
        }
    }
    assert_eq!(table.left.len(), MAX_LEFT);
    let forgotten = std::iter::from_fn(|| table.poll_over(now));
    assert!(forgotten.map(|(flow, _)| flow).all(|flow| flow != of(0, 1)));
    assert!(table.get(modest).is_some());
}
