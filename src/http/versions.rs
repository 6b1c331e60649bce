//! The paths of the versions of the interface: under `/v1` and `/latest` is the same, and page views are
//! at their plain paths as well. The document has each path once; here is which others lead there.

use std::borrow::Cow;

const V1: &str = "/v1";
const LATEST: &str = "/latest";
/// What was there before there were versions.
const PLAIN: &str = "/api/traffic";
/// What is about one person.
const USERS: &str = "/api/users";

/// The other paths of what the document has at `path`.
pub(super) fn others(path: &str) -> impl Iterator<Item = String> + use<> {
    let others = if is_plain(path) {
        vec![format!("{V1}{path}"), format!("{LATEST}{path}")]
    } else {
        let below = below(path, V1);
        below
            .into_iter()
            .map(|rest| format!("{LATEST}{rest}"))
            .collect()
    };
    others.into_iter()
}

/// Under which path the document has what is at `path`.
pub(super) fn documented(path: &str) -> Cow<'_, str> {
    match below(path, V1).or_else(|| below(path, LATEST)) {
        Some(rest) if is_plain(rest) => rest.into(),
        Some(rest) => format!("{V1}{rest}").into(),
        None => path.into(),
    }
}

fn is_plain(path: &str) -> bool {
    path == PLAIN || below(path, PLAIN).is_some() || below(path, USERS).is_some()
}

/// What follows `folder`, whose whole segments count.
fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(folder)?;
    rest.starts_with('/').then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_path_leads_back_to_the_documented_one() {
        for (path, count) in [
            ("/api/traffic", 2),
            ("/api/traffic/daily/{user_id}", 2),
            ("/api/users/{user_id}/traffic", 2),
            ("/v1/events", 1),
            ("/v1/report/funnel", 1),
            ("/health", 0),
            ("/v1x/events", 0),
        ] {
            assert_eq!(documented(path), path);
            assert_eq!(others(path).count(), count, "{path}");
            for other in others(path) {
                assert_eq!(documented(&other), path, "{other}");
            }
        }
        assert_eq!(documented("/latest/report"), "/v1/report");
        assert_eq!(documented("/v1/api/traffic/1"), "/api/traffic/1");
        assert_eq!(documented("/latestx/report"), "/latestx/report");
    }
}
