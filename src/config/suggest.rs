//! "Did you mean": the accepted name that a mistyped one is closest to.
//!
//! Knows nothing about files or keys; compares names, ignoring case and the separators `_`, `-` and `.`, because
//! `maxThreads` for `max_threads` is the same mistake as a typo.

/// The candidate that `typed` most probably stands for; `None` when nothing is near.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = folded(typed);
    let reach = (wanted.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&wanted, &folded(candidate)), candidate))
        .filter(|(distance, _)| *distance <= reach)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | '.')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let check = |typed: &str, expected: Option<&str>| {
            assert_eq!(closest(typed, ["host", "hosts", "port", "max_threads", "jdbc_url_params"]), expected, "{typed}");
        };
        check("hst", Some("host"));
        check("prot", Some("port"));
        check("maxThreads", Some("max_threads"));
        check("max-thread", Some("max_threads"));
        check("jdbc_params", Some("jdbc_url_params"));
        check("hosts ", Some("hosts"));
        check("warehouse", None);
        check("", None);
    }
}
