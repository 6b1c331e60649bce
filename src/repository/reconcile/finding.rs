//! What a comparison can find, and how much of it is kept.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::DayTotals;
use crate::domain::CreatedAt;

/// One difference that lasted. Two of them are equal if they say the same of the same thing, so a
/// difference that changed between two looks is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Finding {
    /// One request id with more than one live claim: reports count each of them.
    RivalClaims {
        /// The id.
        request_id: u64,
        /// Its live claims, wherever they are; two at least.
        claims: Vec<LiveClaim>,
    },
    /// A claim on which the two tables have not the same last word.
    ClaimDiffers {
        /// The id that claims.
        request_id: u64,
        /// The claimed user.
        user_id: u32,
        /// The claimed second, since the Unix epoch; as text RFC 3339.
        #[serde(serialize_with = "time")]
        created_at: u32,
        /// The claimed page.
        page_url: String,
        /// What `traffic` says; nothing if it has no row of the claim.
        traffic: Option<LastWord>,
        /// What `traffic_by_request` says.
        traffic_by_request: Option<LastWord>,
    },
    /// A count of a user's hour that is used and differs from the claims.
    UserCell {
        /// The user.
        user_id: u32,
        /// The hour's first second, since the Unix epoch; as text RFC 3339.
        #[serde(serialize_with = "time")]
        hour: u32,
        /// The page.
        page_url: String,
        /// Views by the sealed counts, 0 if they lack the page or the user.
        counted: u64,
        /// Views by the claims.
        claimed: u64,
    },
    /// The total of a user's hour that is not the sum of its own cells.
    UserTotal {
        /// The user.
        user_id: u32,
        /// The hour's first second, since the Unix epoch; as text RFC 3339.
        #[serde(serialize_with = "time")]
        hour: u32,
        /// The total as it stands there.
        total: u64,
        /// The sum of its cells.
        counted: u64,
    },
    /// A count of the site's hour that is used and differs from the claims.
    SiteCell {
        /// The hour's first second, since the Unix epoch; as text RFC 3339.
        #[serde(serialize_with = "time")]
        hour: u32,
        /// The page.
        page_url: String,
        /// Views by the sealed counts.
        counted_views: u64,
        /// Views by the claims.
        claimed_views: u64,
        /// Distinct users by the sealed counts.
        counted_users: u64,
        /// Distinct users by the claims.
        claimed_users: u64,
        /// How many users are in the one set and not in the other.
        differing_users: u64,
    },
    /// A count of events that is used and differs from the claims.
    EventCell {
        /// The site.
        site_id: String,
        /// The hour's first second, since the Unix epoch; as text RFC 3339.
        #[serde(serialize_with = "time")]
        hour: u32,
        /// The events' type.
        #[serde(rename = "type")]
        name: String,
        /// Events by the sealed counts.
        counted: u64,
        /// Events by the claims.
        claimed: u64,
    },
    /// A day whose totals stand still, are not equal, and are explained by nothing above.
    Totals(DayTotals),
}

/// A live claim of a request id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LiveClaim {
    /// The claimed user.
    pub user_id: u32,
    /// The claimed second, since the Unix epoch; as text RFC 3339.
    #[serde(serialize_with = "time")]
    pub created_at: u32,
    /// The claimed page.
    pub page_url: String,
    /// The claim's rank, as text.
    #[serde(serialize_with = "text")]
    pub version: u64,
}

/// The row of a claim that counts in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LastWord {
    /// Its rank, as text.
    #[serde(serialize_with = "text")]
    pub version: u64,
    /// Whether it is a tombstone.
    pub is_deleted: bool,
}

pub(super) fn time<S: Serializer>(seconds: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&CreatedAt::from_unix(*seconds))
}

fn text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// The one kind that is not about views.
pub(super) const EVENT_CELL: &str = "event_cell";

impl Finding {
    /// The name of its kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Finding::RivalClaims { .. } => "rival_claims",
            Finding::ClaimDiffers { .. } => "claim_differs",
            Finding::UserCell { .. } => "user_cell",
            Finding::UserTotal { .. } => "user_total",
            Finding::SiteCell { .. } => "site_cell",
            Finding::EventCell { .. } => EVENT_CELL,
            Finding::Totals(_) => "totals",
        }
    }
}

impl fmt::Display for LiveClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = CreatedAt::from_unix(self.created_at);
        let page = self.page_url.escape_debug();
        write!(f, "user {} {at} {page} v{}", self.user_id, self.version)
    }
}

/// A tombstone, a live row, or none.
struct Word<'a>(&'a Option<LastWord>);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("missing"),
            Some(word) if word.is_deleted => write!(f, "deleted v{}", word.version),
            Some(word) => write!(f, "live v{}", word.version),
        }
    }
}

/// One line for an operator.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |seconds: &u32| CreatedAt::from_unix(*seconds);
        match self {
            Finding::RivalClaims { request_id, claims } => {
                write!(f, "request {request_id} has {} live claims", claims.len())?;
                for (i, claim) in claims.iter().enumerate() {
                    write!(f, "{} {claim}", if i == 0 { ":" } else { ";" })?;
                }
                Ok(())
            }
            Finding::ClaimDiffers {
                request_id,
                user_id,
                created_at,
                page_url,
                traffic,
                traffic_by_request,
            } => write!(
                f,
                "claim of request {request_id} (user {user_id} {} {}): traffic {}, \
                 traffic_by_request {}",
                at(created_at),
                page_url.escape_debug(),
                Word(traffic),
                Word(traffic_by_request)
            ),
            Finding::UserCell {
                user_id,
                hour,
                page_url,
                counted,
                claimed,
            } => write!(
                f,
                "sealed count of user {user_id}, hour {}, page {}: {counted} counted, {claimed} \
                 by the claims",
                at(hour),
                page_url.escape_debug()
            ),
            Finding::UserTotal {
                user_id,
                hour,
                total,
                counted,
            } => write!(
                f,
                "sealed total of user {user_id}, hour {}: {total}, but its pages have {counted}",
                at(hour)
            ),
            Finding::SiteCell {
                hour,
                page_url,
                counted_views,
                claimed_views,
                counted_users,
                claimed_users,
                differing_users,
            } => write!(
                f,
                "sealed count of the site, hour {}, page {}: {counted_views} views by \
                 {counted_users} users counted, {claimed_views} by {claimed_users} by the claims, \
                 {differing_users} users differ",
                at(hour),
                page_url.escape_debug()
            ),
            Finding::EventCell {
                site_id,
                hour,
                name,
                counted,
                claimed,
            } => write!(
                f,
                "sealed count of site {site_id}, hour {}, events {name}: {counted} counted, \
                 {claimed} by the claims",
                at(hour)
            ),
            Finding::Totals(totals) => write!(
                f,
                "totals of {} differ and nothing explains it: {totals}",
                totals.date()
            ),
        }
    }
}

/// What was found: the first in full, all of them in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The first ones, as many as were asked for.
    pub named: Vec<Finding>,
    /// How many there are of each kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// Differences that were gone or had changed at the next look: views on their way.
    pub passing: u64,
    limit: usize,
}

impl Findings {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            named: Vec::new(),
            counts: BTreeMap::new(),
            passing: 0,
            limit,
        }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        *self.counts.entry(finding.kind()).or_default() += 1;
        if self.named.len() < self.limit {
            self.named.push(finding);
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(user_id: u32) -> Finding {
        Finding::UserCell {
            user_id,
            hour: 7200,
            page_url: "/a\n".to_owned(),
            counted: 2,
            claimed: 1,
        }
    }

    #[test]
    fn the_first_are_kept_and_all_are_counted() {
        let mut findings = Findings::new(2);
        for user in 0..5 {
            findings.add(cell(user));
        }
        assert_eq!((findings.named.len(), findings.total()), (2, 5));
        assert_eq!(findings.counts["user_cell"], 5);
    }

    #[test]
    fn a_finding_is_one_line_and_one_object() {
        let line = cell(7).to_string();
        assert!(!line.contains('\n'), "{line}");
        let json = serde_json::to_value(cell(7)).unwrap();
        assert_eq!(json["kind"], cell(7).kind());
        assert_eq!(json["hour"], "1970-01-01T02:00:00Z");
    }
}
