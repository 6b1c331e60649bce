//! Which events there are: a pure function of the settings and the number of a visit.
//!
//! Half of the sites show captchas: a visit is a `serve`, and mostly a `solve` some seconds later. The
//! other half show ads: an `impression`, and now and then a `click`. Some correlation ids turn up on a
//! second site, as they do in life; there they are other events.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::SplitMix64;
use uuid::{Builder, Uuid};

use super::curve::Curve;
use super::traffic::{MOST_BACK, Times, mixed};
use crate::domain::{CorrelationId, CreatedAt, Event, EventIdentity, EventType, SiteId};

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventShape {
    /// Other seeds give other events, on other sites.
    pub seed: u64,
    /// How many sites, at least one.
    pub sites: u32,
    /// How many visits; most have two events.
    pub visits: u64,
    /// The share of visits whose events are sent once more, 0 to 1.
    pub duplicates: f64,
    /// When they begin; each is over [`LONGEST_VISIT`] later.
    pub times: Times,
}

/// How long after its first event the last one of a visit may be, in seconds.
pub const LONGEST_VISIT: u32 = 120;
/// The share of captchas that are solved, and of ads that are clicked.
const SOLVED: f64 = 0.8;
const CLICKED: f64 = 0.05;
/// The share of visits whose correlation id is also seen on the next site.
const SHARED: f64 = 0.03;

const IMPRESSION: EventType = EventType::known("impression");
const CLICK: EventType = EventType::known("click");

/// What is drawn for a visit; each draw has random numbers of its own.
#[derive(Clone, Copy)]
enum Draw {
    Visit = 1,
    Duplicate = 2,
}

/// The visits of some sites, numbered from 0 in the order of time.
#[derive(Debug, Clone)]
pub struct Visits {
    shape: EventShape,
    curve: Curve,
    ids: u64,
}

impl Visits {
    /// All visits of `shape`.
    pub fn new(shape: EventShape) -> Self {
        let (curve, kind, from, until) = match shape.times {
            Times::Daily(from, until) => (Curve::daily(from, until), 1, from, until),
            Times::Even(from, until) => (Curve::even(from, until), 2, from, until),
        };
        // Whatever makes other events makes other correlation ids; the sites stay.
        let (from, until, sites) = (from.into(), until.into(), shape.sites.into());
        let settings = [kind, from, until, shape.visits, sites];
        let mix = |key: u64, part: u64| mixed(key ^ part);
        Self {
            shape,
            curve,
            ids: settings.into_iter().fold(mixed(shape.seed), mix),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.shape.visits
    }

    /// The site of a number.
    fn site(&self, number: u32) -> SiteId {
        SiteId::new(uuid(mixed(self.shape.seed), number.into()))
    }

    /// The events of one visit, one to four.
    pub fn visit(&self, number: u64) -> Vec<Event> {
        let mut random = self.random(number, Draw::Visit);
        let sites = self.shape.sites.max(1);
        let site = random.random_range(0..sites);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a second more or less is nothing"
        )]
        let part = (number as f64 + random.random::<f64>()) / self.shape.visits.max(1) as f64;
        let begin = self.curve.time(part.min(1.0));
        let correlation_id = CorrelationId::new(uuid(self.ids, number));
        let event = |site_id, of, at| Event {
            identity: EventIdentity {
                site_id,
                correlation_id,
                of,
            },
            time: CreatedAt::from_unix(at),
        };
        let mut events = Vec::new();
        let mut show = |number: u32, random: &mut SplitMix64| {
            let (first, second, share) = match number % 2 {
                0 => (EventType::SERVE, EventType::SOLVE, SOLVED),
                _ => (IMPRESSION, CLICK, CLICKED),
            };
            let site = self.site(number);
            events.push(event(site, first, begin));
            // Of two draws the smaller: short times are more common.
            let took = [(); 2].map(|()| random.random_range(1..=LONGEST_VISIT));
            if random.random_bool(share) {
                events.push(event(site, second, begin + took[0].min(took[1])));
            }
        };
        show(site, &mut random);
        if sites > 1 && random.random_bool(SHARED) {
            show((site + 1) % sites, &mut random);
        }
        events
    }

    /// All that is posted for some visits: their events, and behind each visit the one, it or an earlier
    /// one, that is sent once more.
    pub fn posts(&self, numbers: Range<u64>) -> impl Iterator<Item = Event> + '_ {
        numbers.flat_map(|number| {
            let again = self.duplicate(number).map(|again| self.visit(again));
            let again = again.into_iter().flatten();
            self.visit(number).into_iter().chain(again)
        })
    }

    fn duplicate(&self, number: u64) -> Option<u64> {
        let mut random = self.random(number, Draw::Duplicate);
        random
            .random_bool(self.shape.duplicates)
            .then(|| number - random.random_range(0..=number.min(MOST_BACK)))
    }

    fn random(&self, number: u64, draw: Draw) -> SplitMix64 {
        SplitMix64::seed_from_u64(mixed(
            mixed(self.shape.seed ^ draw as u64).wrapping_add(number),
        ))
    }
}

/// The event as a client sends it.
pub fn line(event: &Event) -> String {
    let EventIdentity {
        site_id,
        correlation_id,
        of,
    } = event.identity;
    format!(
        r#"{{"site_id":"{site_id}","type":"{}","correlation_id":"{correlation_id}","time":"{}"}}"#,
        of.as_str(),
        event.time
    )
}

/// A UUID of version 4, one to one with its number but for the bits that say so.
fn uuid(key: u64, number: u64) -> Uuid {
    let (upper, lower) = (
        mixed(key.wrapping_add(number)),
        mixed(number ^ key.rotate_left(32)),
    );
    let bytes = ((u128::from(upper) << 64) | u128::from(lower)).to_be_bytes();
    Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FROM: u32 = 1_790_000_000;
    const UNTIL: u32 = FROM + 30 * 86_400;
    const SHAPE: EventShape = EventShape {
        seed: 7,
        sites: 20,
        visits: 20_000,
        duplicates: 0.1,
        times: Times::Daily(FROM, UNTIL),
    };

    fn events(shape: EventShape) -> Vec<Event> {
        Visits::new(shape).posts(0..shape.visits).collect()
    }

    fn key(event: &Event) -> (SiteId, CorrelationId, EventType) {
        let id = event.identity;
        (id.site_id, id.correlation_id, id.of)
    }

    #[test]
    fn the_same_settings_give_the_same_events_and_others_never_the_same_ids() {
        let all = events(SHAPE);
        assert_eq!(all, events(SHAPE));
        let ids = |events: &[Event]| -> BTreeSet<_> {
            events.iter().map(|e| e.identity.correlation_id).collect()
        };
        let mine = ids(&all);
        let later = Times::Daily(FROM, UNTIL - 1);
        for other in [
            EventShape { seed: 8, ..SHAPE },
            EventShape { sites: 21, ..SHAPE },
            EventShape {
                visits: 19_999,
                ..SHAPE
            },
            EventShape {
                times: later,
                ..SHAPE
            },
        ] {
            assert!(mine.is_disjoint(&ids(&events(other))), "{other:?}");
        }
        let more = EventShape {
            duplicates: 0.5,
            ..SHAPE
        };
        assert_eq!(mine, ids(&events(more)));
        // The same sites have more events then.
        let sites = |events: &[Event]| -> BTreeSet<_> {
            events.iter().map(|e| e.identity.site_id).collect()
        };
        let again = EventShape {
            times: later,
            ..SHAPE
        };
        assert_eq!(sites(&all), sites(&events(again)));
    }

    #[test]
    fn every_event_is_another_but_for_those_that_are_sent_again() {
        let once = events(EventShape {
            duplicates: 0.0,
            ..SHAPE
        });
        let identities: BTreeSet<_> = once.iter().map(key).collect();
        assert_eq!(identities.len(), once.len());
        let twice = events(SHAPE);
        let more = twice.len() - once.len();
        assert!(
            (once.len() / 12..once.len() / 8).contains(&more),
            "{more} of {}",
            once.len()
        );
        let whole =
            |events: &[Event]| -> BTreeSet<_> { events.iter().map(|e| (key(e), e.time)).collect() };
        assert_eq!(whole(&once), whole(&twice));
        let range = FROM..=UNTIL + LONGEST_VISIT;
        assert!(once.iter().all(|e| range.contains(&e.time.unix())));
        let sites: BTreeSet<_> = once.iter().map(|e| e.identity.site_id).collect();
        assert_eq!(sites.len(), 20);
        let of = |of| once.iter().filter(|e| e.identity.of == of).count();
        let (served, solved) = (of(EventType::SERVE), of(EventType::SOLVE));
        assert!(
            (served * 3 / 4..served).contains(&solved),
            "{solved} of {served}"
        );
        assert!(of(IMPRESSION) > 9_000 && of(CLICK) > 300);
    }
}
