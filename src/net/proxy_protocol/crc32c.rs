//! CRC-32C (Castagnoli), as PROXY version 2 wants it: RFC 9260, appendix A. Bit-reflected, polynomial
//! 0x1EDC6F41. A table of 256 does for headers of 4 KiB.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    const REFLECTED: u32 = 0x1EDC_6F41_u32.reverse_bits();
    let mut table = [0; 256];
    let mut byte: u32 = 0;
    while byte < 256 {
        let mut word = byte;
        let mut bit = 0;
        while bit < 8 {
            word = if word & 1 == 1 { (word >> 1) ^ REFLECTED } else { word >> 1 };
            bit += 1;
        }
        table[byte as usize] = word;
        byte += 1;
    }
    table
}

/// The checksum of `parts`, one after the other.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(!0, |crc: u32, byte| {
        let [low, ..] = (crc ^ u32::from(*byte)).to_le_bytes();
        (crc >> 8) ^ TABLE[usize::from(low)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_published_checksums() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(checksum(&[b"123456789"]), 0xe306_9283);
        assert_eq!(checksum(&[b"1234", b"", b"56789"]), 0xe306_9283);
        assert_eq!(checksum(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(checksum(&[&[0xff; 32]]), 0x62a8_ab43);
        assert_eq!(checksum(&[]), 0);
    }
}
