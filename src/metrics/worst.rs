//! Labels with a bound: the worst configs by name, the others as one.

use super::exposition::label;
use crate::domain::ids::ConfigId;

/// Configs that a metric names in one scrape; the rest is `config="other"`.
pub const WORST: usize = 50;

/// A config, the value that it is measured by, and what else its sample needs.
pub(super) type Valued<T> = (ConfigId, f64, T);

/// The [`WORST`] greatest of `values`, and the others, as they are, for the caller to join. Among equal ones the
/// smaller id goes first, so that the series do not change from scrape to scrape. Zeros are not worth a series.
pub(super) fn worst<T>(mut values: Vec<Valued<T>>) -> (Vec<Valued<T>>, Vec<Valued<T>>) {
    values.retain(|(_, value, _)| *value > 0.0);
    if values.len() <= WORST {
        return (values, Vec::new());
    }
    values.select_nth_unstable_by(WORST, |a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rest = values.split_off(WORST);
    (values, rest)
}

/// Samples by config of values that can be summed: the worst, and the sum of the others with `more` of those that
/// nobody can name.
#[must_use]
pub fn summed(values: Vec<(ConfigId, f64)>, more: f64) -> Vec<(String, f64)> {
    let (named, rest) = worst(values.into_iter().map(|(config, value)| (config, value, ())).collect());
    let other = rest.iter().map(|(_, value, ())| value).sum::<f64>() + more;
    named
        .into_iter()
        .map(|(config, value, ())| (label("config", config), value))
        .chain([(label("config", "other"), other)])
        .collect()
}
