//! The known name that is nearest to an unknown one: for keys of the rule file here, and for settings in the server.

/// The nearest of `known`, by the least number of inserted, removed, replaced or swapped letters. `None` where more than a
/// third of the letters would change: that would be a guess, and lead astray.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|candidate| (distance(name, candidate), candidate));
    let (steps, candidate) = near.min_by_key(|(steps, _)| *steps)?;
    (steps <= name.len().max(candidate.len()).max(3) / 3).then_some(candidate)
}

fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_one_step() {
        assert_eq!(distance("prot", "port"), 1);
        assert_eq!(distance("", "port"), 4);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn the_nearest_name_wins() {
        assert_eq!(nearest("mqtt.prot", ["ws.port", "mqtt.port", "mqtt.host"]), Some("mqtt.port"));
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn what_is_not_near_is_no_guess() {
        for (name, known) in [("x", "connect"), ("foo", "auth"), ("limit", "text"), ("", "ws")] {
            assert_eq!(nearest(name, [known]), None, "{name}");
        }
        assert_eq!(nearest("hst", ["host", "port"]), Some("host"));
    }
}
