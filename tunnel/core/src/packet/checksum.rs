//! The Internet checksum (RFC 1071).

/// Sum of `bytes` as big-endian 16-bit words, on top of `start`; an odd last byte counts as the high half of a word.
///
/// Not folded: sums may be added up, as long as every part but the last has an even length.
#[must_use]
pub fn sum(bytes: &[u8], start: u64) -> u64 {
    // The sum does not care how many words are added at a time, nor in which byte order, as long as the result is
    // turned round in the end (RFC 1071, section 2). Four sums, because each addition waits for the one before it; written out,
    // because a packet has so many blocks that a call for each would be half of the work.
    let [mut a, mut b, mut c, mut d] = [0u128; 4];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        a += word(block, 0);
        b += word(block, 8);
        c += word(block, 16);
        d += word(block, 24);
    }
    let all = a + b + c + d;
    let mut native = u64::from(fold(all as u64)) + u64::from(fold((all >> 64) as u64));
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        native += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        native += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    start + u64::from(u16::from_be(fold(native)))
}

/// Eight bytes of a block in this machine's order.
#[inline]
fn word(block: &[u8; 32], at: usize) -> u128 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&block[at..at + 8]);
    u128::from(u64::from_ne_bytes(bytes))
}

/// The 16-bit sum that stands for `sum`; its complement is the checksum.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a checksum becomes when a 16-bit word of what it covers changes (RFC 1624).
#[must_use]
pub fn updated(checksum: u16, from: u16, to: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!from) + u64::from(to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as RFC 1071 writes it.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += (u64::from(pair[0]) << 8) | u64::from(pair.get(1).copied().unwrap_or(0));
        }
        fold(sum)
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(
            fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)),
            0xddf2
        );
    }

    proptest! {
        #[test]
        fn any_length_and_any_split_at_an_even_place(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..150) {
            prop_assert_eq!(fold(sum(&bytes, 0)), reference(&bytes));
            let (front, back) = bytes.split_at((at * 2).min(bytes.len() & !1));
            prop_assert_eq!(fold(sum(back, sum(front, 0))), reference(&bytes));
        }

        #[test]
        fn an_update_is_as_good_as_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 40), to: u16) {
            bytes[0] = 1;
            let before = !fold(sum(&bytes, 0));
            let from = u16::from_be_bytes([bytes[10], bytes[11]]);
            bytes[10..12].copy_from_slice(&to.to_be_bytes());
            prop_assert_eq!(updated(before, from, to), !fold(sum(&bytes, 0)));
        }
    }
}
