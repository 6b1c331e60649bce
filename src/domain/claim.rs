//! The register behind every view: a set of claims, of which the last writer's is the view.
//!
//! A claim is the whole tuple (request id, user, time, page) with a version and a tombstone flag.
//! The database keeps, for each tuple, the row with the highest version; a tuple whose row is a
//! tombstone is not counted. That merge is commutative, associative and idempotent, so neither the
//! order nor the repetition of rows matters. What is left to do is decided here: which rows an
//! update writes, and which it adds when it meets a rival.

use super::{PageView, Version};

/// One row of the raw table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The tuple that is claimed.
    pub view: PageView,
    /// Its rank.
    pub version: Version,
    /// A tombstone: the tuple is *not* the view any more.
    pub is_deleted: bool,
}

impl Claim {
    /// What a POST claims.
    pub fn first(view: PageView) -> Self {
        Self {
            view,
            version: Version::FIRST,
            is_deleted: false,
        }
    }

    fn tombstone(view: &PageView, version: Version) -> Self {
        Self {
            view: view.clone(),
            version,
            is_deleted: true,
        }
    }
}

/// The claims of one call; they land in the same insert or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimSet {
    /// A POST.
    One(Claim),
    /// An update with its tombstones; not empty.
    Many(Vec<Claim>),
}

impl ClaimSet {
    /// The rows.
    pub fn claims(&self) -> &[Claim] {
        match self {
            ClaimSet::One(claim) => std::slice::from_ref(claim),
            ClaimSet::Many(claims) => claims,
        }
    }
}

/// The outcome of looking at all live claims of one request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The claim that is the view; `None` when no claim is live.
    pub winner: Option<Claim>,
    /// The tombstones that the losers still need; empty when there is no rival.
    pub tombstones: Vec<Claim>,
}

/// The claims that are not tombstones.
pub fn live(claims: &[Claim]) -> Vec<Claim> {
    claims
        .iter()
        .filter(|claim| !claim.is_deleted)
        .cloned()
        .collect()
}

/// The highest version among `claims`, tombstones included: an update must rise above all of them,
/// or a tombstone from a node whose clock runs ahead would swallow it.
pub fn highest_version(claims: &[Claim]) -> Version {
    claims
        .iter()
        .map(|claim| claim.version)
        .max()
        .unwrap_or(Version::FIRST)
}

/// The rows that make `view` the view at `version`, where `live` are the live claims: the new
/// claim, and a tombstone at the same version for each that differs.
pub fn supersede(live: &[Claim], view: PageView, version: Version) -> Vec<Claim> {
    let mut rows = erase(live.iter().filter(|claim| claim.view != view), version);
    rows.push(Claim {
        view,
        version,
        is_deleted: false,
    });
    rows
}

/// A tombstone at `version` for each of `live`.
pub fn erase<'a>(live: impl IntoIterator<Item = &'a Claim>, version: Version) -> Vec<Claim> {
    live.into_iter()
        .map(|claim| Claim::tombstone(&claim.view, version))
        .collect()
}

/// Settles rivals among all `claims` of one id, tombstones included: the highest (version, tuple)
/// wins, and each loser gets a tombstone **at the winner's version, never above it**. Above it, two
/// settlements that saw different rivals could erase each other's winner; at it, all of them agree.
/// Only a first post that loses to another first post gets it one above: at the same version a late
/// copy of the loser would undo it. No winner is ever erased so, since each of them has the greatest
/// tuple that its settlement saw.
///
/// A delete is a rival too, one that leaves only tombstones: where it outranks the update that won,
/// the view is gone. It does not outrank a first post, which has no rank of its own.
pub fn settle(claims: &[Claim]) -> Settlement {
    let live = live(claims);
    let rank = |claim: &Claim| (claim.version, claim.view.clone());
    let Some(winner) = live.iter().max_by_key(|claim| rank(claim)).cloned() else {
        return Settlement {
            winner: None,
            tombstones: Vec::new(),
        };
    };
    let top = highest_version(claims);
    if winner.version != Version::FIRST && winner.version < top {
        return Settlement {
            winner: None,
            tombstones: erase(&live, top),
        };
    }
    let losers = live.iter().filter(|claim| claim.view != winner.view);
    Settlement {
        tombstones: erase(losers, winner.version.max(Version::ABOVE_FIRST)),
        winner: Some(winner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CreatedAt, PageUrl, RequestId, UserId};

    fn claim(page: &str, version: u64) -> Claim {
        let view = PageView {
            request_id: RequestId::new(1),
            user_id: UserId::new(1),
            created_at: CreatedAt::from_unix(1),
            page_url: PageUrl::trusted(page),
        };
        Claim {
            view,
            version: Version::new(version),
            is_deleted: false,
        }
    }

    #[test]
    fn an_update_keeps_no_tombstone_for_itself() {
        let live = [claim("/a", 0), claim("/b", 0)];
        let rows = supersede(&live, claim("/b", 0).view, Version::new(9));
        let shape: Vec<_> = rows
            .iter()
            .map(|c| (c.view.page_url.as_str(), c.version.get(), c.is_deleted))
            .collect();
        assert_eq!(shape, [("/a", 9, true), ("/b", 9, false)]);
    }

    #[test]
    fn rivals_are_settled_at_the_winners_version() {
        let settled = settle(&[claim("/c", 3), claim("/a", 7), claim("/b", 7)]);
        assert_eq!(settled.winner, Some(claim("/b", 7)));
        assert!(
            settled
                .tombstones
                .iter()
                .all(|t| t.is_deleted && t.version.get() == 7)
        );
        assert_eq!(settled.tombstones.len(), 2);
        assert!(settle(&[claim("/a", 1)]).tombstones.is_empty());
        assert_eq!(settle(&[]).winner, None);
    }

    #[test]
    fn a_late_copy_of_a_first_post_that_lost_stays_lost() {
        let rivals = [claim("/a", 0), claim("/b", 0)];
        let settled = settle(&rivals);
        assert_eq!(settled.winner, Some(claim("/b", 0)));
        let late = claim("/a", 0);
        assert_eq!(settled.tombstones[0].view, late.view);
        assert!(settled.tombstones[0].version > late.version);
        // A settlement that saw other rivals chooses the same winner of those that both saw.
        let other = settle(&[claim("/b", 0), claim("/c", 0)]);
        assert_eq!(other.winner, Some(claim("/c", 0)));
        assert_eq!(other.tombstones[0].view, claim("/b", 0).view);
        // And an update outranks what was put to rest.
        let risen = settle(&[settled.tombstones[0].clone(), claim("/a", 2)]);
        assert_eq!(risen.winner, Some(claim("/a", 2)));
    }

    #[test]
    fn a_delete_outranks_earlier_updates_and_no_post() {
        let deleted = Claim {
            is_deleted: true,
            ..claim("/a", 9)
        };
        let outranked = settle(&[deleted.clone(), claim("/b", 8)]);
        assert_eq!(outranked.winner, None);
        assert_eq!(outranked.tombstones.len(), 1);
        assert_eq!(outranked.tombstones[0].version, Version::new(9));
        let later = settle(&[deleted.clone(), claim("/b", 10)]);
        assert_eq!(later.winner, Some(claim("/b", 10)));
        let reposted = settle(&[deleted, claim("/b", 0)]);
        assert_eq!(reposted.winner, Some(claim("/b", 0)));
    }
}
