//! One walk over everything: suspicions first, findings after later looks, mending last.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::chunks::{Chunk, Rows, chunks};
use super::claims::{IDS, Tuple};
use super::{Finding, Findings, Mended, Reconciler};
use crate::repository::Error;
use crate::repository::sealed_tables::PAGE_VIEWS;

/// The first of the two later looks comes soon: what was only on its way is mostly gone by then.
const SOON: Duration = Duration::from_secs(1);
/// So many suspicions are gathered before they are looked at again.
const SUSPECTS: usize = 20_000;

/// What is to be mended when the walk is over.
#[derive(Default)]
pub(super) struct Faults {
    /// Hours with wrong counts, by their first seconds.
    pub(super) hours: BTreeSet<u32>,
    /// The same of events.
    pub(super) event_hours: BTreeSet<u32>,
    /// Ids with several live claims, or with claims that one table lacked.
    pub(super) ids: BTreeSet<u64>,
}

/// A walk under way.
struct Walk<'a> {
    reconciler: &'a Reconciler,
    suspects: Vec<Finding>,
    findings: Findings,
    faults: Faults,
    mended: Option<&'a mut Mended>,
}

impl Reconciler {
    /// Everything but the totals; claims are mended at once if `mended` is given, the rest is
    /// returned. Cells first and claims last: a claim that is mended leaves a mark, after which the
    /// cells of its hour are not used and so not looked at.
    pub(super) async fn walk(
        &self,
        window: &Range<u32>,
        events: &Range<u32>,
        mended: Option<&mut Mended>,
    ) -> Result<(Findings, Faults), Error> {
        let mut walk = Walk {
            reconciler: self,
            suspects: Vec::new(),
            findings: Findings::new(self.limit),
            faults: Faults::default(),
            mended,
        };
        let (rows, differ) = self.survey_claims(window).await?;
        walk.cells(window, &rows).await?;
        let hours = self.sealed_events(events).await?;
        walk.suspect(self.differing_events(&hours).await?).await?;
        for ids in self.rival_ids(window).await?.chunks(IDS) {
            walk.suspect(self.rivals(ids, &[]).await?).await?;
        }
        for chunk in chunks(differ, &rows) {
            let suspects = self.differing_claims(&chunk.cut(window), None).await?;
            walk.suspect(suspects).await?;
        }
        walk.settle().await?;
        Ok((walk.findings, walk.faults))
    }

    /// What now holds where `suspects` were found; also of their neighbours.
    async fn look_again(&self, suspects: &[Finding]) -> Result<Vec<Finding>, Error> {
        let mut found = Vec::new();
        let (mut users, mut site) = (BTreeSet::new(), BTreeSet::new());
        let mut events = BTreeSet::new();
        let (mut rivals, mut claims) = (Vec::new(), BTreeMap::<u32, Vec<Tuple>>::new());
        for suspect in suspects {
            match suspect {
                Finding::UserCell { hour, .. } | Finding::UserTotal { hour, .. } => {
                    users.insert(*hour);
                }
                Finding::SiteCell { hour, .. } => {
                    site.insert(*hour);
                }
                Finding::EventCell { hour, .. } => {
                    events.insert(*hour);
                }
                Finding::RivalClaims { request_id, .. } => rivals.push(*request_id),
                Finding::ClaimDiffers { created_at, .. } => {
                    let hour = created_at - created_at % 3600;
                    claims.entry(hour).or_default().extend(tuple(suspect));
                }
                Finding::Totals(_) => {}
            }
        }
        for ids in rivals.chunks(IDS) {
            found.extend(self.rivals(ids, &[]).await?);
        }
        for (hour, tuples) in claims {
            for some in tuples.chunks(IDS) {
                let ids: Vec<u64> = some.iter().map(|(id, ..)| *id).collect();
                let users: Vec<u32> = some.iter().map(|(_, user, ..)| *user).collect();
                let chunk = Chunk::whole([hour]);
                found.extend(self.differing_claims(&chunk, Some((&ids, &users))).await?);
            }
        }
        // An hour that has got a late row meanwhile is not read from its counts any more.
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            let sealed = self.sealed_events(&(*first..last + 3600)).await?;
            found.extend(self.differing_events(&(&events & &sealed)).await?);
        }
        let hours = users.union(&site);
        let (Some(first), Some(last)) = (hours.clone().min(), hours.max()) else {
            return Ok(found);
        };
        let sealed = self.sealed(&PAGE_VIEWS, &(*first..last + 3600)).await?;
        for hour in &users & &sealed.users {
            found.extend(self.differing_users(&Chunk::whole([hour])).await?);
        }
        for hour in &site & &sealed.site {
            found.extend(self.differing_pages(&Chunk::whole([hour])).await?);
        }
        Ok(found)
    }
}

impl Walk<'_> {
    async fn cells(&mut self, window: &Range<u32>, rows: &Rows) -> Result<(), Error> {
        let reconciler = self.reconciler;
        let sealed = reconciler.sealed(&PAGE_VIEWS, window).await?;
        let within = |hour: &u32| *hour >= window.start && *hour + 3600 <= window.end;
        for chunk in chunks(sealed.users.into_iter().filter(within), rows) {
            self.suspect(reconciler.differing_users(&chunk).await?)
                .await?;
        }
        for chunk in chunks(sealed.site.into_iter().filter(within), rows) {
            self.suspect(reconciler.differing_pages(&chunk).await?)
                .await?;
        }
        Ok(())
    }

    async fn suspect(&mut self, suspects: Vec<Finding>) -> Result<(), Error> {
        self.suspects.extend(suspects);
        if self.suspects.len() >= SUSPECTS {
            self.settle().await?;
        }
        Ok(())
    }

    /// Names the suspicions that last and forgets the others.
    async fn settle(&mut self) -> Result<(), Error> {
        let lasting = self.lasting().await?;
        let (claims, others): (Vec<Finding>, Vec<Finding>) = lasting
            .into_iter()
            .partition(|finding| tuple(finding).is_some());
        for finding in others {
            self.name(finding);
        }
        // A second live claim may be in one table only.
        for some in claims.chunks(IDS) {
            let tuples: Vec<Tuple> = some.iter().filter_map(tuple).collect();
            let ids: Vec<u64> = tuples.iter().map(|(id, ..)| *id).collect();
            for finding in self.reconciler.rivals(&ids, &tuples).await? {
                self.name(finding);
            }
        }
        if let Some(mended) = self.mended.as_deref_mut() {
            mended.claims += self.reconciler.unite(&claims).await?;
        }
        for finding in claims {
            self.name(finding);
        }
        Ok(())
    }

    fn name(&mut self, finding: Finding) {
        match &finding {
            // Found in two ways, named once.
            Finding::RivalClaims { request_id, .. } => {
                if !self.faults.ids.insert(*request_id) {
                    return;
                }
            }
            Finding::UserCell { hour, .. }
            | Finding::UserTotal { hour, .. }
            | Finding::SiteCell { hour, .. } => {
                self.faults.hours.insert(*hour);
            }
            Finding::EventCell { hour, .. } => {
                self.faults.event_hours.insert(*hour);
            }
            Finding::ClaimDiffers { .. } | Finding::Totals(_) => {}
        }
        self.findings.add(finding);
    }

    /// Those suspicions that are exactly the same at two later looks.
    async fn lasting(&mut self) -> Result<Vec<Finding>, Error> {
        let patience = self.reconciler.patience;
        let (began, mut left) = (Instant::now(), std::mem::take(&mut self.suspects));
        let before = left.len();
        for wait in [SOON.min(patience), patience] {
            if left.is_empty() || patience.is_zero() {
                break;
            }
            debug!(suspects = left.len(), ?wait, "looking again");
            sleep_until(began + wait).await;
            let again = self.reconciler.look_again(&left).await?;
            let again: HashSet<Finding> = again.into_iter().collect();
            left.retain(|suspect| again.contains(suspect));
        }
        self.findings.passing += (before - left.len()) as u64;
        Ok(left)
    }
}

fn tuple(finding: &Finding) -> Option<Tuple> {
    match finding {
        Finding::ClaimDiffers {
            request_id,
            user_id,
            created_at,
            page_url,
            ..
        } => Some((*request_id, *user_id, *created_at, page_url.clone())),
        _ => None,
    }
}
