//! Ports into blocks, and into slices.

use super::*;
use crate::ledger::Slot;
use crate::territory::Slice;
use crate::territory::ground::Ground;

#[test]
fn blocks_cover_each_slot_once_in_the_order_of_the_slots() {
    let sources = [
        source("10.0.0.1", &[1000..=1029, 1040..=1099, 5000..=5000]),
        source("2001:db8::1", &[1..=65535]),
        source("10.0.0.2", &[65400..=65535]),
    ];
    let ground = Ground::new(Family::V4, &sources).unwrap();
    // 1000-1023, 1024-1087 of two ranges, 1088-1099, 5000, 65400-65535 over three blocks.
    let counts: Vec<u32> =
        (0..ground.block_count()).map(|block| ground.run(block..block + 1).count).collect();
    assert_eq!(counts, [24, 6 + 48, 12, 1, 8, 64, 64]);
    assert_eq!(ground.run(0..7).count, 30 + 60 + 1 + 136);
    assert_eq!(ground.blocks_of(0), 0..4);
    assert_eq!(ground.blocks_of(1), 0..0);
    assert_eq!(ground.blocks_of(2), 4..7);
    assert_eq!(ground.unbroken(0..7), 0..3);
}

#[test]
fn a_block_has_the_same_byte_whatever_else_a_pool_has() {
    for (family, address, other) in
        [(Family::V4, "10.0.0.7", "10.0.0.8"), (Family::V6, "2001:db8::7", "2001:db8::8")]
    {
        let narrow = [source(address, &[2048..=2049])];
        let wide = [source(other, &[1024..=65535]), source(address, &[1024..=65535])];
        let narrow = Ground::new(family, &narrow).unwrap();
        let wide = Ground::new(family, &wide).unwrap();
        let block = wide.blocks_of(1).start + (2048 - 1024) / 64;
        assert_eq!(narrow.bytes(&(0..1)), wide.bytes(&(block..block + 1)));
    }
}

#[test]
fn slices_share_all_slots_out_evenly() {
    let sources = [
        source("10.0.0.1", &[1000..=1009, 2000..=2000]),
        source("::1", &[7..=7]),
        source("10.0.0.2", &[1..=65535]),
        source("10.0.0.3", &[5..=7]),
    ];
    for of in [1, 2, 3, 8, 64] {
        let mut owners = vec![0; 11 + 65535 + 3];
        for number in 1..=of {
            let mut ours = vec![true; owners.len()];
            for run in Slice::new(number, of).unwrap().rest_of(Family::V4, &sources) {
                let Slot(first) = run.first;
                ours[first as usize..(first + run.count) as usize].fill(false);
            }
            let count = ours.iter().filter(|ours| **ours).count();
            let fair = owners.len() / of as usize;
            assert!(count.abs_diff(fair) <= 3, "slice {number}/{of} has {count}, fair is {fair}");
            owners.iter_mut().zip(ours).for_each(|(owners, ours)| *owners += u32::from(ours));
        }
        assert!(owners.iter().all(|owners| *owners == 1), "{of} slices overlap or leave a gap");
    }
}

#[test]
fn a_slice_reads_as_it_is_written() {
    assert_eq!("2/8".parse::<Slice>().unwrap(), Slice::new(2, 8).unwrap());
    assert_eq!(Slice::new(2, 8).unwrap().to_string(), "2/8");
    for bad in ["", "2", "0/8", "9/8", "1/0", "-1/2", "1/2/3", "a/b"] {
        let error = bad.parse::<Slice>().unwrap_err().to_string();
        assert!(error.contains(&format!("'{bad}'")), "{error}");
    }
}
