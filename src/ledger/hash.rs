//! Hashes of destinations, which nobody without the pool's key can make collide.

/// SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; one round for a
/// word and three at the end) of a few whole words, keyed.
///
/// For lengths that are known when it is compiled, it takes half of the instructions of one for any.
#[derive(Debug)]
pub(super) struct Hasher([u64; 4]);

/// Every hash is odd, so that a claim's word tells it from an address.
pub(super) const HASH_MARK: u64 = 1;

impl Hasher {
    pub(super) fn new([k0, k1]: [u64; 2]) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    /// The hash of `words` but for the last one's top byte, which must be zero; odd.
    #[inline]
    pub(super) fn hash<const N: usize>(&self, mut words: [u64; N]) -> u64 {
        // SipHash ends with the message's length in bytes above its last seven.
        words[N - 1] |= (N as u64 * 8 - 1) << 56;
        let mut state = self.0;
        for word in words {
            state[3] ^= word;
            round(&mut state);
            state[0] ^= word;
        }
        state[2] ^= 0xff;
        (0..3).for_each(|_| round(&mut state));
        let [a, b, c, d] = state;
        a ^ b ^ c ^ d | HASH_MARK
    }
}

#[inline]
fn round(state: &mut [u64; 4]) {
    let [mut a, mut b, mut c, mut d] = *state;
    a = a.wrapping_add(b);
    c = c.wrapping_add(d);
    b = b.rotate_left(13) ^ a;
    d = d.rotate_left(16) ^ c;
    a = a.rotate_left(32).wrapping_add(d);
    c = c.wrapping_add(b);
    d = d.rotate_left(21) ^ a;
    b = b.rotate_left(17) ^ c;
    *state = [a, b, c.rotate_left(32), d];
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    proptest! {
        /// Promises: SipHash-1-3 of the words' bytes without the last one, but for the mark.
        #[test]
        fn agrees_with_siphash(keys: [u64; 2], words: [u64; 3]) {
            let theirs = SipHasher13::new_with_keys(keys[0], keys[1]);
            let ours = Hasher::new(keys);
            let words = words.map(|word| word >> 8);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(ours.hash(words), theirs.hash(&bytes[..23]) | HASH_MARK);
            prop_assert_eq!(ours.hash([words[0]]), theirs.hash(&bytes[..7]) | HASH_MARK);
        }
    }
}
