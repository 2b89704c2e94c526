//! Histograms as they are exposed: with our buckets in every format, and as native ones, which have buckets of their own,
//! where the format has these.

use prometheus_client::metrics::histogram::{Histogram, NativeHistogramConfig};

/// Buckets of a native histogram at most. Where there would be more, they become coarser.
const MOST_BUCKETS: usize = 160;

/// With these buckets, in seconds.
pub(super) fn histogram(buckets: impl IntoIterator<Item = f64>) -> Histogram {
    Histogram::new_classic_and_native(buckets, NativeHistogramConfig::default().max_buckets(MOST_BUCKETS))
}
