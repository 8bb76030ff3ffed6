//! How long dials took: histograms in nanoseconds, within 0.1 % of each value.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// One minute; a dial gives up long before.
const MAX_NS: u64 = 60_000_000_000;

/// Microseconds of a dial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

pub(crate) fn empty() -> Histogram<u64> {
    Histogram::new_with_max(MAX_NS, 3).expect("bounds that a histogram takes")
}

pub(crate) fn note(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(time.as_nanos().min(u128::from(MAX_NS)) as u64);
}

/// Each value that was noted and how often.
pub(crate) fn counts(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_at_value()))
        .collect()
}

/// Adds what [`counts`] gave.
pub(crate) fn add(histogram: &mut Histogram<u64>, counts: &[(u64, u64)]) {
    for &(value, count) in counts {
        histogram.saturating_record_n(value.min(MAX_NS), count);
    }
}

pub(crate) fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    if histogram.is_empty() {
        return Quantiles::default();
    }
    let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
    Quantiles {
        p50: us(histogram.value_at_quantile(0.50)),
        p99: us(histogram.value_at_quantile(0.99)),
        max: us(histogram.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_carry_a_histogram_over() {
        let mut histogram = empty();
        for us in 1..=1000 {
            note(&mut histogram, Duration::from_micros(us));
        }
        note(&mut histogram, Duration::from_secs(3600));
        let mut other = empty();
        add(&mut other, &counts(&histogram));
        assert_eq!(other.len(), 1001);
        assert_eq!(quantiles(&other), quantiles(&histogram));
        assert!((quantiles(&other).p50 - 501.0).abs() < 1.0, "{:?}", quantiles(&other));
        assert!(quantiles(&other).max >= 59_000_000.0);
    }

    #[test]
    fn nothing_noted_is_zero() {
        assert_eq!(quantiles(&empty()), Quantiles { p50: 0.0, p99: 0.0, max: 0.0 });
    }
}
