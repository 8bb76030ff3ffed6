//! Models of one field's protocols, run by loom as those of the ledger are (`ledger/models.rs`).

use super::*;
use crate::ledger::models::loom::{Fixed, Noon, check_with};
use loom::sync::Arc as LoomArc;
use loom::thread;

/// A field of which only the first slot of each line may be free; `held` of those are not.
fn thin(lines: u32, held: &'static [u32]) -> LoomArc<Field> {
    let capacity = (lines - 1) * 64 + 1;
    let field = Field::new(Arc::new(Exclusions::new(capacity)), capacity);
    let taken = (0..capacity).filter(|slot| slot % 64 != 0 || held.contains(slot));
    let taken = taken.map(|slot| Won { slot, stamp: Stamp::NONE });
    field.furnish(Names::None, std::iter::empty(), taken, 0);
    LoomArc::new(field)
}

fn acquire(field: &Field, lane: u32) -> Option<u32> {
    field.acquire(0, &Noon, &mut Fixed(lane)).map(|claim| claim.won().slot)
}

fn release(field: &Field, slot: u32) {
    field.release(Won { slot, stamp: Stamp::NONE }, None).unwrap();
}

/// Two searches would make a crowd, one after the other. Between them a release that knew of none
/// has freed a slot in its line, and somebody proves that nothing is free.
#[test]
fn loom_a_crowd_is_not_made_twice() {
    check_with(3, || {
        let field = thin(3, &[0, 64]);
        (0..2).for_each(|line| field.mark_if_full(line));
        let other = {
            let field = LoomArc::clone(&field);
            thread::spawn(move || field.crowd_if_few())
        };
        field.crowd_if_few();
        field.clear(64);
        assert!(acquire(&field, 0).is_some(), "two are free");
        let last = field.acquire_or_prove_full(&Noon, &mut Fixed(0));
        assert!(last.is_some(), "one is free all the time");
        other.join().unwrap();
    });
}

/// A release that saw a crowd puts its slot into a cell after the crowd was dispersed, while others
/// take and give back.
#[test]
fn loom_a_slot_that_comes_too_late_for_a_crowd() {
    check_with(4, || {
        let field = thin(2, &[0, 64]);
        let other = {
            let field = LoomArc::clone(&field);
            thread::spawn(move || field.open_in_crowd(64))
        };
        if let Some(slot) = acquire(&field, 0) {
            release(&field, slot);
            for _ in 0..2 {
                let slot = acquire(&field, 0).expect("it was released, and nobody else wants it");
                release(&field, slot);
            }
            assert!(acquire(&field, 0).is_some(), "it was released, and nobody else wants it");
        }
        other.join().unwrap();
    });
}

/// A line is marked while the last of the other marks goes, and with it the sign; the line has a
/// free slot again before the sign is back, or after.
#[test]
fn loom_a_mark_comes_and_goes_with_its_sign() {
    for is_early in [true, false] {
        check_with(3, move || {
            let field = thin(2, &[0, 64]);
            field.mark_if_full(1);
            let other = {
                let field = LoomArc::clone(&field);
                thread::spawn(move || release(&field, 64))
            };
            field.mark_if_full(0);
            if is_early {
                release(&field, 0);
                other.join().unwrap();
            } else {
                other.join().unwrap();
                release(&field, 0);
            }
            assert!(!field.is_marked(0), "a mark outlives the release");
        });
    }
}

/// A slot is wanted by its number while it moves from its cell to its line.
#[test]
fn loom_a_number_that_is_on_its_way() {
    check_with(4, || {
        let field = thin(2, &[]);
        assert_eq!([acquire(&field, 0), acquire(&field, 0)], [Some(0), Some(64)]);
        release(&field, 64);
        let other = {
            let field = LoomArc::clone(&field);
            thread::spawn(move || {
                assert!(field.acquire_exactly(64).is_some(), "it is free all the time");
            })
        };
        assert!(field.acquire_within(0..1, &Noon, &mut Fixed(1)).is_err());
        other.join().unwrap();
    });
}
