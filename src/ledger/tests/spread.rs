//! Which ports are chosen, of those that are free.

use super::*;

/// Pearson's statistic per degree of freedom for counts that should be even.
fn chi_square(counts: &[u32]) -> f64 {
    let mean = counts.iter().sum::<u32>() as f64 / counts.len() as f64;
    let sum: f64 = counts.iter().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum();
    sum / (counts.len() - 1) as f64
}

/// Fills `percent` of one source's whole range, then counts `draws` picks among the free.
fn picks(percent: usize, draws: usize) -> Vec<u32> {
    let ledger = ledger(&[source("10.0.0.1", 1024, 65_535)]);
    let to = tcp("192.0.2.1:80");
    let (clock, random) = (TestClock::default(), &mut TestRandom(42, 0));
    let pin = ledger.pin(&to).unwrap();
    // The claims are kept to the end of the function, so that the ports stay taken.
    let taken = fill(&ledger, &to, 64_512 * percent / 100, random);
    let mut counts = vec![0u32; 64_512];
    for _ in 0..draws {
        let claim = acquire_pinned(&ledger, &pin, From::AnySource, &clock, random).unwrap();
        counts[claim.slot().0 as usize] += 1;
        ledger.release(&to, claim, Then::Free);
    }
    for claim in &taken {
        assert_eq!(counts[claim.slot().0 as usize], 0);
    }
    let taken: HashSet<u32> = taken.iter().map(|claim| claim.slot().0).collect();
    ledger.unpin(&pin);
    (0..64_512).filter(|slot| !taken.contains(slot)).map(|slot| counts[slot as usize]).collect()
}

#[test]
fn starts_are_even_over_an_empty_and_a_half_full_range() {
    for percent in [0, 50] {
        let counts = picks(percent, 64_512 * (100 - percent) / 100 * 20);
        let freedom = (counts.len() - 1) as f64;
        let (chi, spread) = (chi_square(&counts), (2.0 / freedom).sqrt());
        // Five standard deviations of the statistic.
        assert!((chi - 1.0).abs() < 5.0 * spread, "{percent} %: {chi} +- {spread}");
    }
}

#[test]
fn no_free_port_is_favoured_much_when_hardly_any_is_left() {
    let counts = picks(99, 645 * 400);
    let most = *counts.iter().max().unwrap();
    assert!(most < 400 * 4, "the favourite is picked {} times its share", most as f64 / 400.0);
}

#[test]
fn no_port_gathers_all_destinations() {
    let ledger = ledger(&[source("10.0.0.1", 1024, 65_535)]);
    let random = &mut TestRandom(7, 0);
    let mut destinations_on = vec![0u32; 64_512];
    for i in 0..10_000u32 {
        let to = tcp(&format!("192.{}.{}.1:443", i >> 8, i & 255));
        for claim in fill(&ledger, &to, 10, random) {
            destinations_on[claim.slot().0 as usize] += 1;
        }
    }
    let most = *destinations_on.iter().max().unwrap();
    assert!(most <= 12, "mean 1.55, most {most}");
}
