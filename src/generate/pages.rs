//! What the pages of the site are called.

use crate::domain::PageUrl;

/// The pages that every site has, most viewed first.
const FIRST: [&str; 12] = [
    "/",
    "/pricing",
    "/login",
    "/blog",
    "/docs",
    "/features",
    "/search",
    "/about",
    "/contact",
    "/careers",
    "/status",
    "/legal/privacy",
];
const TOPICS: [&str; 8] = [
    "clickhouse",
    "rust",
    "metrics",
    "privacy",
    "scaling",
    "dashboards",
    "releases",
    "tips",
];

/// The page of a rank from 1, most viewed first; each rank has its own.
pub(super) fn page(rank: u32) -> PageUrl {
    let place = rank.saturating_sub(1) as usize;
    if let Some(page) = FIRST.get(place) {
        return PageUrl::trusted(*page);
    }
    let topic = TOPICS[place / 4 % TOPICS.len()];
    PageUrl::trusted(match place % 4 {
        0 => format!("/blog/{topic}-{rank}"),
        1 => format!("/docs/{topic}/{rank}"),
        2 => format!("/products/{rank}"),
        _ => format!("https://shop.example.org/{topic}/{rank}?ref=mail"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_rank_has_a_page_of_its_own() {
        let pages: HashSet<_> = (1..=10_000).map(page).collect();
        assert_eq!(pages.len(), 10_000);
        assert_eq!(page(1).as_str(), "/");
    }
}
