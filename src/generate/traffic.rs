//! Which views there are: a pure function of the settings and a number.

use std::ops::Range;

use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf, ZipfError};
use rand_xoshiro::SplitMix64;

use super::curve::Curve;
use super::pages::page;
use crate::domain::{CreatedAt, PageView, RequestId, UserId};

/// How much less each rank of users is seen than the one before it: a few are there all the time,
/// most now and then.
const USER_EXPONENT: f64 = 0.8;
/// The same of pages, as often measured on real sites.
const PAGE_EXPONENT: f64 = 1.0;
/// How many views back a repeat may be of: a client's retry comes soon.
pub(super) const MOST_BACK: u64 = 5000;
/// How far back an update may move a view, in seconds.
const MOST_EARLIER: u32 = 36 * 3600;
/// The distance of `SplitMix64`'s states, odd, so that the ids of all numbers differ.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// When the views happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// By a daily curve between two times, in seconds since the epoch.
    Daily(u32, u32),
    /// As many in every second between two times.
    Even(u32, u32),
}

/// The settings of the traffic.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Other seeds give other views.
    pub seed: u64,
    /// How many views.
    pub views: u64,
    /// How many users at most; ids from 1, the busiest first.
    pub users: u32,
    /// How many pages at most.
    pub pages: u32,
    /// The share of views that are sent once more, 0 to 1.
    pub duplicates: f64,
    /// The share of views that are updated, 0 to 1.
    pub updates: f64,
    /// When they happen.
    pub times: Times,
}

/// What is drawn for a view; each draw has random numbers of its own.
#[derive(Clone, Copy)]
enum Draw {
    View = 1,
    Duplicate = 2,
    Update = 3,
}

/// The traffic of a site; its views are numbered from 0 in the order of time.
#[derive(Debug, Clone)]
pub struct Traffic {
    shape: Shape,
    curve: Curve,
    users: Zipf<f64>,
    pages: Zipf<f64>,
    ids: u64,
}

impl Traffic {
    /// The traffic of a shape.
    ///
    /// # Errors
    /// There are no users or no pages.
    pub fn new(shape: Shape) -> Result<Self, ZipfError> {
        let (curve, kind, from, until) = match shape.times {
            Times::Daily(from, until) => (Curve::daily(from, until), 1, from, until),
            Times::Even(from, until) => (Curve::even(from, until), 2, from, until),
        };
        // Whatever makes other views makes other ids. Which are repeated or updated does not.
        let users = u64::from(shape.users);
        let pages = u64::from(shape.pages);
        let settings = [
            kind,
            u64::from(from),
            u64::from(until),
            shape.views,
            users,
            pages,
        ];
        let mix = |key: u64, part: u64| mixed(key ^ part);
        Ok(Self {
            shape,
            curve,
            users: Zipf::new(f64::from(shape.users), USER_EXPONENT)?,
            pages: Zipf::new(f64::from(shape.pages), PAGE_EXPONENT)?,
            ids: settings.into_iter().fold(mixed(shape.seed), mix),
        })
    }

    /// How many views there are.
    pub fn views(&self) -> u64 {
        self.shape.views
    }

    /// View number `number`.
    pub fn view(&self, number: u64) -> PageView {
        let mut random = self.random(number, Draw::View);
        let user_id = self.user(&mut random);
        let page_url = self.page(&mut random);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a second more or less is nothing"
        )]
        let part = (number as f64 + random.random::<f64>()) / self.shape.views.max(1) as f64;
        PageView {
            request_id: RequestId::new(mixed(self.ids.wrapping_add(number.wrapping_mul(GOLDEN)))),
            user_id,
            created_at: CreatedAt::from_unix(self.curve.time(part.min(1.0))),
            page_url,
        }
    }

    /// The number of the view, this one or an earlier one, that is sent once more behind view
    /// `number`.
    pub fn duplicate(&self, number: u64) -> Option<u64> {
        let mut random = self.random(number, Draw::Duplicate);
        random
            .random_bool(self.shape.duplicates)
            .then(|| number - random.random_range(0..=number.min(MOST_BACK)))
    }

    /// What view number `number` is corrected to later.
    pub fn update(&self, number: u64) -> Option<PageView> {
        let mut random = self.random(number, Draw::Update);
        if !random.random_bool(self.shape.updates) {
            return None;
        }
        let mut view = self.view(number);
        match random.random_range(0..4) {
            0 => view.user_id = self.user(&mut random),
            1 => {
                let earlier = random.random_range(0..=MOST_EARLIER);
                let at = view.created_at.unix().saturating_sub(earlier);
                view.created_at = CreatedAt::from_unix(at.max(self.curve.from()));
            }
            _ => view.page_url = self.page(&mut random),
        }
        Some(view)
    }

    /// All that is posted for some views: each, and the repeat behind it.
    pub fn posts(&self, numbers: Range<u64>) -> impl Iterator<Item = PageView> + '_ {
        numbers.flat_map(|number| {
            let again = self.duplicate(number).map(|again| self.view(again));
            std::iter::once(self.view(number)).chain(again)
        })
    }

    fn random(&self, number: u64, draw: Draw) -> SplitMix64 {
        SplitMix64::seed_from_u64(mixed(
            mixed(self.shape.seed ^ draw as u64).wrapping_add(number),
        ))
    }

    fn user(&self, random: &mut SplitMix64) -> UserId {
        UserId::new(rank(self.users, random))
    }

    fn page(&self, random: &mut SplitMix64) -> crate::domain::PageUrl {
        page(rank(self.pages, random))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number from 1 to what was a u32"
)]
fn rank(zipf: Zipf<f64>, random: &mut SplitMix64) -> u32 {
    zipf.sample(random) as u32
}

/// Another number for each, with no likeness between neighbours.
pub(super) fn mixed(number: u64) -> u64 {
    SplitMix64::seed_from_u64(number).next_u64()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    const UNTIL: u32 = 1_700_438_400;
    const SHAPE: Shape = Shape {
        seed: 1,
        views: 100_000,
        users: 1000,
        pages: 200,
        duplicates: 0.05,
        updates: 0.03,
        times: Times::Daily(UNTIL - 7 * 86_400, UNTIL),
    };

    fn traffic(shape: Shape) -> Traffic {
        Traffic::new(shape).unwrap()
    }

    #[test]
    fn pages_and_users_follow_zipfs_law() {
        let traffic = traffic(SHAPE);
        let (mut users, mut pages) = (HashMap::new(), HashMap::new());
        for view in (0..SHAPE.views).map(|number| traffic.view(number)) {
            *users.entry(view.user_id.get()).or_insert(0) += 1;
            *pages.entry(view.page_url).or_insert(0) += 1;
        }
        let share = |n: u32, exponent: f64| -> f64 {
            1.0 / (1..=n).map(|r| f64::from(r).powf(-exponent)).sum::<f64>()
        };
        let near = |found: i32, expected: f64| {
            let found = f64::from(found) / 100_000.0;
            assert!((found / expected - 1.0).abs() < 0.05, "{found} {expected}");
        };
        near(pages[&page(1)], share(200, PAGE_EXPONENT));
        near(pages[&page(2)], share(200, PAGE_EXPONENT) / 2.0);
        near(users[&1], share(1000, USER_EXPONENT));
        assert!(users.len() > 950 && users.keys().all(|user| (1..=1000).contains(user)));
        assert_eq!(pages.len(), 200);
    }

    #[test]
    fn shares_are_as_asked_for() {
        let traffic = traffic(SHAPE);
        let numbers = 0..SHAPE.views;
        let repeats = numbers
            .clone()
            .filter_map(|n| Some((n, traffic.duplicate(n)?)));
        let repeats: Vec<_> = repeats.collect();
        assert!((4800..5200).contains(&repeats.len()), "{}", repeats.len());
        assert!(
            repeats
                .iter()
                .all(|(n, again)| again <= n && n - again <= MOST_BACK)
        );
        let updates: Vec<_> = numbers
            .filter_map(|n| Some((n, traffic.update(n)?)))
            .collect();
        assert!((2800..3200).contains(&updates.len()), "{}", updates.len());
        for (number, update) in &updates {
            let view = traffic.view(*number);
            assert_eq!(update.request_id, view.request_id);
            assert!(update.created_at <= view.created_at);
            assert!(update.created_at.unix() >= UNTIL - 7 * 86_400);
        }
        let none = self::traffic(Shape {
            duplicates: 0.0,
            updates: 0.0,
            ..SHAPE
        });
        assert!((0..1000).all(|n| none.duplicate(n).is_none() && none.update(n).is_none()));
        assert_eq!(none.posts(0..1000).count(), 1000);
    }

    #[test]
    fn other_views_have_other_ids() {
        let ids = |shape: Shape| -> HashSet<u64> {
            let traffic = traffic(shape);
            (0..1000)
                .map(|n| traffic.view(n).request_id.get())
                .collect()
        };
        let first = ids(SHAPE);
        assert_eq!(first.len(), 1000);
        assert_eq!(
            first,
            ids(Shape {
                duplicates: 0.5,
                updates: 0.5,
                ..SHAPE
            })
        );
        for other in [
            Shape { seed: 2, ..SHAPE },
            Shape {
                views: 99_999,
                ..SHAPE
            },
            Shape {
                users: 999,
                ..SHAPE
            },
            Shape {
                pages: 199,
                ..SHAPE
            },
            Shape {
                times: Times::Daily(UNTIL - 7 * 86_400, UNTIL - 1),
                ..SHAPE
            },
            Shape {
                times: Times::Even(UNTIL - 7 * 86_400, UNTIL),
                ..SHAPE
            },
        ] {
            assert!(first.is_disjoint(&ids(other)), "{other:?}");
        }
    }

    #[test]
    fn a_billion_views_are_no_more_than_one() {
        let traffic = traffic(Shape {
            views: 1_000_000_000,
            ..SHAPE
        });
        let last = traffic.view(999_999_999);
        assert!((UNTIL - 2..=UNTIL).contains(&last.created_at.unix()));
        assert!(traffic.view(0).created_at.unix() < UNTIL - 7 * 86_400 + 2);
    }
}
