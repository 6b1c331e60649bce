//! Which events there are: a pure function of the settings and the number of a visit.
//!
//! Half of the sites show captchas: a visit is a `serve`, and mostly a `solve` some seconds later. The
//! other half show ads: an `impression`, and now and then a `click`. Some correlation ids turn up on a
//! second site, as they do in life; there they are other events.

use uuid::{Builder, Uuid};

use crate::domain::{CorrelationId, CreatedAt, Event, EventIdentity, EventType, SiteId};

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventShape {
    /// Other seeds give other events, on other sites.
    pub seed: u64,
    /// How many sites, at least one.
    pub sites: u32,
    /// How many visits; most have two events.
    pub visits: u64,
    /// The first second of the visits, since the Unix epoch.
    pub from: u32,
    /// The second behind the last one in which an event may lie.
    pub until: u32,
}

/// The share of captchas that are solved, and of ads that are clicked, in 256ths.
const SOLVED: u64 = 205;
const CLICKED: u64 = 12;
/// The share of visits whose correlation id is also seen on the next site, in 256ths.
const SHARED: u64 = 8;
/// The longest time from a serve to its solve, in seconds.
const SLOWEST: u64 = 120;

/// Events in the order of their visits, which follow each other in time.
#[derive(Debug, Clone)]
pub struct Events {
    shape: EventShape,
    next: u64,
    /// The rest of the present visit, last one first.
    visit: Vec<Event>,
}

impl Events {
    /// All events of `shape`.
    pub fn of(shape: EventShape) -> Self {
        Self {
            shape,
            next: 0,
            visit: Vec::new(),
        }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        while self.visit.is_empty() && self.next < self.shape.visits {
            self.visit = self.shape.visit(self.next);
            self.visit.reverse();
            self.next += 1;
        }
        self.visit.pop()
    }
}

impl EventShape {
    /// The site of a number.
    pub fn site(&self, number: u32) -> SiteId {
        SiteId::new(uuid(mix(self.seed ^ 0x5173), u64::from(number)))
    }

    /// The events of one visit, one to four.
    pub fn visit(&self, number: u64) -> Vec<Event> {
        let draw = mix(self.seed.wrapping_add(mix(number)));
        let sites = u64::from(self.sites.max(1));
        let site = draw % sites;
        let correlation_id = CorrelationId::new(uuid(mix(self.seed), number));
        let span = u64::from(self.until.saturating_sub(self.from)).max(1);
        let at = u128::from(number) * u128::from(span) / u128::from(self.visits.max(1));
        let at = u64::from(self.from) + u64::try_from(at).unwrap_or(0);
        let mut events = Vec::new();
        let mut show = |site: u64, draw: u64| {
            let (first, second, share) = match site % 2 {
                0 => (EventType::SERVE, EventType::SOLVE, SOLVED),
                _ => (IMPRESSION, CLICK, CLICKED),
            };
            let mut add = |of, at: u64| {
                let at = at.min(u64::from(self.until).saturating_sub(1));
                let number = u32::try_from(site).unwrap_or(0);
                events.push(Event {
                    identity: EventIdentity {
                        site_id: self.site(number),
                        correlation_id,
                        of,
                    },
                    time: CreatedAt::from_unix(u32::try_from(at).unwrap_or(u32::MAX)),
                });
            };
            add(first, at);
            if draw & 0xff < share {
                // Of two draws the smaller: short times are more common.
                let fraction = ((draw >> 8) & 0xffff).min((draw >> 24) & 0xffff);
                let took = (fraction * SLOWEST) >> 16;
                add(second, at + 1 + took);
            }
        };
        show(site, draw >> 20);
        let other = mix(draw);
        if other & 0xff < SHARED && sites > 1 {
            show((site + 1) % sites, other >> 8);
        }
        events
    }
}

const IMPRESSION: EventType = EventType::known("impression");
const CLICK: EventType = EventType::known("click");

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
fn uuid(seed: u64, number: u64) -> Uuid {
    let (upper, lower) = (
        mix(seed.wrapping_add(number)),
        mix(number ^ seed.rotate_left(32)),
    );
    let bytes = ((u128::from(upper) << 64) | u128::from(lower)).to_be_bytes();
    Builder::from_random_bytes(bytes).into_uuid()
}

/// The finalizer of SplitMix64, a bijection (<https://prng.di.unimi.it/splitmix64.c>).
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SHAPE: EventShape = EventShape {
        seed: 7,
        sites: 20,
        visits: 20_000,
        from: 1_790_000_000,
        until: 1_790_000_000 + 30 * 86_400,
    };

    #[test]
    fn the_same_settings_give_the_same_events() {
        let events: Vec<Event> = Events::of(SHAPE).collect();
        assert!(Events::of(SHAPE).eq(events.iter().copied()));
        let other = EventShape { seed: 8, ..SHAPE };
        assert_ne!(Events::of(other).next(), Some(events[0]));
        let one_by_one = (0..SHAPE.visits).flat_map(|number| SHAPE.visit(number));
        assert!(one_by_one.eq(events));
    }

    #[test]
    fn every_event_is_another_and_lies_in_the_range() {
        let events: Vec<Event> = Events::of(SHAPE).collect();
        let key = |e: &Event| {
            let id = e.identity;
            (id.site_id, id.correlation_id, id.of)
        };
        let identities: BTreeSet<_> = events.iter().map(key).collect();
        assert_eq!(identities.len(), events.len());
        let range = SHAPE.from..SHAPE.until;
        assert!(events.iter().all(|e| range.contains(&e.time.unix())));
        let sites: BTreeSet<_> = events.iter().map(|e| e.identity.site_id).collect();
        assert_eq!(sites.len(), 20);
        let of = |of| events.iter().filter(|e| e.identity.of == of).count();
        let (served, solved) = (of(EventType::SERVE), of(EventType::SOLVE));
        assert!(
            (served * 3 / 4..served).contains(&solved),
            "{solved} of {served}"
        );
        assert!(of(IMPRESSION) > 9_000 && of(CLICK) > 300);
    }
}
