//! Labels with a bound: the worst configs by name, the others as one.

use super::exposition::label;
use crate::domain::ids::ConfigId;

/// Configs that a metric names in one scrape; the rest is `config="other"`.
pub const WORST: usize = 50;

/// The [`WORST`] greatest of `values` by their config, and the others, as they are, for the caller to join. Zeros are
/// not worth a series.
pub(super) fn worst<T>(mut values: Vec<T>, value_of: impl Fn(&T) -> f64) -> (Vec<T>, Vec<T>) {
    values.retain(|entry| value_of(entry) > 0.0);
    if values.len() <= WORST {
        return (values, Vec::new());
    }
    values.select_nth_unstable_by(WORST, |a, b| value_of(b).total_cmp(&value_of(a)));
    let rest = values.split_off(WORST);
    (values, rest)
}

/// Samples by config of values that can be summed: the worst, and the sum of the others with `more` of those that
/// nobody can name.
#[must_use]
pub fn summed(values: Vec<(ConfigId, f64)>, more: f64) -> Vec<(String, f64)> {
    let (named, rest) = worst(values, |(_, value)| *value);
    let other = rest.iter().map(|(_, value)| value).sum::<f64>() + more;
    named
        .into_iter()
        .map(|(config, value)| (label("config", config), value))
        .chain([(label("config", "other"), other)])
        .collect()
}
