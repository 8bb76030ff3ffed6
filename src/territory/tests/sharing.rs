//! Two pools of one process on one file: to the kernel as good as two processes.

use super::*;

fn pair(name: &str, sources: &[Source]) -> (Folder, Pool, Pool) {
    let folder = Folder::new(name);
    let first = Pool::new(&folder.file(), sources).unwrap();
    let second = Pool::new(&folder.file(), sources).unwrap();
    (folder, first, second)
}

#[test]
fn two_pools_share_all_and_overlap_nowhere() {
    let sources =
        [source("10.0.0.1", &[1000..=2899, 3000..=3000]), source("10.0.0.2", &[65400..=65535])];
    let (_folder, mut first, mut second) = pair("share", &sources);
    assert!(first.granted().is_empty());
    while first.grow() != Growth::NothingFree || second.grow() != Growth::NothingFree {}
    let (ours, theirs) = (first.granted(), second.granted());
    assert!(ours.is_disjoint(&theirs));
    assert_eq!(ours.len() + theirs.len(), 1900 + 1 + 136);
    drop(first);
    second.grow_to_the_end();
    assert_eq!(second.granted().len(), 1900 + 1 + 136);
}

#[test]
fn pools_with_overlapping_ranges_share_what_is_common() {
    let folder = Folder::new("overlap");
    let mut narrow = Pool::new(&folder.file(), &[source("::1", &[2000..=2999])]).unwrap();
    let wide = [source("::2", &[1024..=2047]), source("::1", &[1000..=65535])];
    let mut wide = Pool::new(&folder.file(), &wide).unwrap();
    while narrow.try_grow(Family::V6, From::AnySource).unwrap() != Growth::NothingFree {}
    while wide.try_grow(Family::V6, From::AnySource).unwrap() != Growth::NothingFree {}
    assert_eq!(narrow.granted().len(), 1000);
    // Blocks are whole: 1984 to 3007 is the narrow one's.
    assert_eq!(wide.granted().len(), 1024 + (1984 - 1000) + (65536 - 3008));
}

#[test]
fn growth_for_one_source_takes_blocks_of_that_source() {
    let sources = [source("10.0.0.1", &[1024..=2047]), source("10.0.0.2", &[1024..=2047])];
    let (_folder, mut pool, _) = pair("source", &sources);
    while pool.try_grow(Family::V4, From::Source(1)).unwrap() != Growth::NothingFree {}
    assert_eq!(pool.granted(), (1024..2048).map(|slot| (false, slot)).collect());
    assert_eq!(pool.try_grow(Family::V6, From::AnySource).unwrap(), Growth::NothingFree);
}

#[test]
fn what_one_does_not_use_another_that_starves_gets_at_the_next_maintenance() {
    let (_folder, mut rich, mut poor) = pair("hunger", &[source("10.0.0.1", &[1024..=4095])]);
    rich.grow_to_the_end();
    rich.book.used.borrow_mut().insert((false, 100));
    rich.maintain(0).unwrap();
    assert_eq!(rich.granted().len(), 3072);
    assert_eq!(poor.grow(), Growth::NothingFree);
    rich.maintain(50).unwrap();
    assert_eq!(rich.granted(), (64..128).map(|slot| (false, slot)).collect());
    poor.grow_to_the_end();
    assert_eq!(poor.granted().len(), 3072 - 64);
    // Who asks in vain stops to count as starving a while after.
    poor.use_all();
    rich.book.used.borrow_mut().clear();
    poor.maintain(2_000).unwrap();
    poor.maintain(3_000).unwrap();
    rich.maintain(3_000).unwrap();
    assert_eq!(rich.granted().len(), 64);
}

#[test]
fn hunger_for_one_source_leaves_the_other_sources_alone() {
    let sources = [source("10.0.0.1", &[1024..=2047]), source("10.0.0.9", &[1024..=2047])];
    let (_folder, mut rich, mut poor) = pair("hunger-source", &sources);
    rich.grow_to_the_end();
    assert_eq!(poor.try_grow(Family::V4, From::Source(1)).unwrap(), Growth::NothingFree);
    rich.maintain(0).unwrap();
    assert_eq!(rich.granted(), (0..1024).map(|slot| (false, slot)).collect());
}

#[test]
fn empty_blocks_are_given_back_after_a_while_and_used_ones_are_not() {
    let (_folder, mut pool, _) = pair("idle", &[source("10.0.0.1", &[1024..=2047])]);
    pool.grow_to_the_end();
    pool.book.used.borrow_mut().insert((false, 1023));
    for now_ms in [0, 9_999] {
        pool.maintain(now_ms).unwrap();
        assert_eq!(pool.granted().len(), 1024);
    }
    pool.maintain(12_500).unwrap();
    assert_eq!(pool.granted(), (960..1024).map(|slot| (false, slot)).collect());
    assert_eq!(pool.territory.blocks_held().unwrap(), Some(1));
}

#[test]
fn a_pool_that_grows_is_given_more_ahead_of_need() {
    let (_folder, mut pool, _) = pair("ahead", &[source("10.0.0.1", &[1024..=65535])]);
    let _ = pool.grow();
    pool.use_all();
    let before = pool.granted().len();
    pool.maintain(0).unwrap();
    assert!(pool.granted().len() > before);
    let before = pool.granted().len();
    pool.maintain(1).unwrap();
    assert_eq!(pool.granted().len(), before, "nobody asked for more");
}

/// A pool that has all of 48 blocks, with one lease in each, and another that starves.
fn scattered(name: &str) -> (Folder, Pool, Pool) {
    let (folder, mut rich, mut poor) = pair(name, &[source("10.0.0.1", &[1024..=4095])]);
    rich.grow_to_the_end();
    rich.book.used.borrow_mut().extend((0..48).map(|block| (false, block * 64)));
    // It has asked in vain for a 49th, and gives nothing away for a second.
    rich.maintain(0).unwrap();
    assert_eq!(poor.grow(), Growth::NothingFree);
    rich.maintain(999).unwrap();
    assert_eq!(rich.granted().len(), 3072);
    rich.maintain(1_000).unwrap();
    (folder, rich, poor)
}

#[test]
fn scattered_leases_leave_their_blocks_one_by_one_to_who_starves() {
    let (_folder, mut rich, mut poor) = scattered("drain");
    // 48 leases, a quarter more and half a block are 92 ports: two blocks.
    let kept = rich.granted();
    assert_eq!(kept.len(), 2 * 64);
    assert_eq!(rich.territory.blocks_held().unwrap(), Some(48), "none is empty yet");
    assert!(rich.territory.is_draining(Family::V4, From::AnySource));
    assert_eq!(poor.grow(), Growth::NothingFree);
    // A connection ends here and there; each block goes when its last one does.
    for ended in 1..=3 {
        let leaves = (0..48)
            .map(|block| (false, block * 64))
            .find(|slot| !kept.contains(slot) && rich.book.used.borrow().contains(slot));
        rich.book.used.borrow_mut().remove(&leaves.unwrap());
        rich.maintain(1_000 + ended * 50).unwrap();
        assert_eq!(poor.grow(), Growth::Grown(64));
        assert_eq!(poor.grow(), Growth::NothingFree);
    }
    assert_eq!(rich.territory.blocks_held().unwrap(), Some(45));
}

#[test]
fn what_is_drained_is_taken_back_by_who_needs_it_before_anything_is_exhausted() {
    let (_folder, mut rich, mut poor) = scattered("take-back");
    for blocks in 3..=48 {
        assert_eq!(rich.grow(), Growth::Grown(64));
        assert_eq!(rich.granted().len(), blocks * 64);
    }
    assert!(!rich.territory.is_draining(Family::V4, From::AnySource));
    assert_eq!(rich.grow(), Growth::NothingFree);
    // What was needed a moment ago is not drained again.
    assert_eq!(poor.grow(), Growth::NothingFree);
    rich.maintain(1_100).unwrap();
    rich.maintain(2_100).unwrap();
    assert_eq!(rich.granted().len(), 3072);
}

#[test]
fn what_is_drained_is_granted_again_when_nobody_has_starved_for_a_while() {
    let (_folder, mut rich, poor) = scattered("drain-ends");
    drop(poor);
    rich.maintain(10_999).unwrap();
    assert_eq!(rich.granted().len(), 2 * 64, "it may come back any moment");
    rich.maintain(11_000).unwrap();
    assert_eq!(rich.granted().len(), 3072);
}
