//! The funnel: how many that were served went on to solve, and how long they took.

use super::super::ReportWindow;
use super::super::pages::{instant, window};
use super::super::parameters::{Parameters, Reader};
use crate::domain::{AcceptanceWindow, CreatedAt, Invalid, SiteId};

const PARAMETERS: &[&str] = &["site_id", "from", "to", "solve_within"];
const LISTS: &[&str] = &["site_id"];
/// How long after its serve a solve counts in a question that does not say, in seconds.
const DEFAULT_SOLVE_WITHIN: u32 = 86_400;
/// The most of it.
const MAX_SOLVE_WITHIN: u32 = 7 * 86_400;

/// Whose funnel, and when.
///
/// A correlation id of a site was *served* if the site has a `serve` event of it in the window. It went
/// on to *solve* if there is a `solve` event of it not before that serve, and at most `solve_within`
/// seconds after it, be it behind the window's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunnelQuery {
    /// The seconds in which the serves lie.
    pub window: ReportWindow,
    /// How long after its serve a solve counts, in seconds.
    pub solve_within: u32,
    /// Which sites, in order; all if there are none.
    pub sites: Vec<SiteId>,
}

/// One funnel.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Funnel {
    /// Distinct correlation ids served.
    pub served: u64,
    /// How many of those then solved.
    pub solved: u64,
    /// The median of their times from serve to solve in seconds, and the 95th percentile, both
    /// interpolated between neighbours; nothing where nobody solved.
    pub time_to_solve: Option<(f64, f64)>,
}

impl Funnel {
    /// The share of those served who solved; nothing where nobody was served.
    pub fn solve_rate(&self) -> Option<f64> {
        (self.served > 0).then(|| self.solved as f64 / self.served as f64)
    }
}

/// The funnel of all that was asked for, and of each site.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FunnelReport {
    /// All sites together.
    pub total: Funnel,
    /// Each site that was asked for by name and has serves, in order.
    pub sites: Vec<(SiteId, Funnel)>,
}

impl FunnelQuery {
    /// Reads the parameters.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(parameters: &Parameters, accepted: &AcceptanceWindow) -> Result<Self, Invalid> {
        let mut reader = Reader::with_lists(parameters, PARAMETERS, LISTS);
        let sites = super::sites(&mut reader);
        let from = reader.read("from", instant);
        let to = reader.read("to", instant);
        let solve_within = reader.read("solve_within", |text| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let seconds = text.parse().ok().filter(|_| digits);
            let seconds = seconds.filter(|n| (1..=MAX_SOLVE_WITHIN).contains(n));
            seconds.ok_or_else(|| {
                let detail = format!("must be a number of seconds from 1 to {MAX_SOLVE_WITHIN}");
                ("out_of_range", detail)
            })
        });
        let window = window(&mut reader, from, to, accepted);
        reader.finish()?;
        Ok(Self {
            window,
            solve_within: solve_within.unwrap_or(DEFAULT_SOLVE_WITHIN),
            sites,
        })
    }

    /// The first second whose solves can't count any more.
    pub fn solves_until(&self) -> CreatedAt {
        CreatedAt::from_unix(self.window.until.unix().saturating_add(self.solve_within))
    }
}
