//! The middle of some values, and how far they lie apart.

use std::collections::BTreeMap;

use crate::sample::{Results, Sample};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

/// What is taken of a sample.
pub(crate) type Figure = fn(&Sample) -> Option<f64>;

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self { min: values[0], median, max: values[values.len() - 1] })
    }
}

/// A figure of a candidate over all rounds.
pub(crate) fn figures(results: &Results, workload: &str, candidate: &str, figure: Figure) -> Option<Spread> {
    Spread::of(by_round(results, workload, candidate, figure).into_values())
}

/// A figure of one divided by that of another in the same round, over all rounds.
pub(crate) fn ratios(
    results: &Results,
    workload: &str,
    candidate: &str,
    against: &str,
    figure: Figure,
) -> Option<Spread> {
    let others = by_round(results, workload, against, figure);
    let own = by_round(results, workload, candidate, figure);
    Spread::of(own.iter().filter_map(|(round, value)| Some(value / others.get(round)?)))
}

fn by_round(results: &Results, workload: &str, candidate: &str, figure: Figure) -> BTreeMap<usize, f64> {
    let wanted = |sample: &&Sample| sample.workload == workload && sample.candidate == candidate;
    let samples = results.samples.iter().filter(wanted);
    samples.filter_map(|sample| Some((sample.round, figure(sample)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(spread(&[]), None);
    }
}
