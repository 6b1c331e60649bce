//! Events by interval, site and type, in parts if the answer is long.

use super::super::pages::{Interval, instant, limit, window};
use super::super::parameters::{Parameters, Reader, one_of};
use super::super::{DEFAULT_LIMIT, ReportWindow};
use super::CountersCursor;
use crate::domain::{AcceptanceWindow, CreatedAt, EventType, Invalid, SiteId};

const PARAMETERS: &[&str] = &[
    "site_id", "type", "from", "to", "interval", "limit", "after",
];
/// Those that may be given more than once.
const LISTS: &[&str] = &["site_id", "type"];
/// What can be counted together here.
pub(super) const INTERVALS: &[(&str, Interval)] =
    &[("hour", Interval::Hour), ("day", Interval::Day)];

/// Which events, when, and how many rows at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountersQuery {
    /// The seconds that count.
    pub window: ReportWindow,
    /// What is counted together: hours or days.
    pub interval: Interval,
    /// Which sites, in order; all if there are none.
    pub sites: Vec<SiteId>,
    /// Which types, in order; all if there are none.
    pub types: Vec<EventType>,
    /// The most rows in the answer.
    pub limit: u64,
    /// The rows behind this one.
    pub after: Option<(CreatedAt, SiteId)>,
}

/// One row: the events of one site in one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// Where the interval begins, which may be before the window.
    pub start: CreatedAt,
    /// The site.
    pub site_id: SiteId,
    /// How many of each type, none of them zero, in order of the type's name.
    pub counts: Vec<(String, u64)>,
}

impl Counter {
    /// How many of one type.
    pub fn count(&self, of: EventType) -> u64 {
        let found = self.counts.iter().find(|(name, _)| name == of.as_str());
        found.map_or(0, |(_, count)| *count)
    }
}

/// Rows of an answer, by start, then by site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountersPage {
    /// The rows.
    pub counters: Vec<Counter>,
    /// Where there are more.
    pub next: Option<CountersCursor>,
}

impl CountersQuery {
    /// Reads the parameters. A cursor holds the window and the interval: beside it they may be left out
    /// or be what they were. Sites and types must be given again.
    ///
    /// # Errors
    /// Everything that is wrong with the parameters.
    pub fn read(parameters: &Parameters, accepted: &AcceptanceWindow) -> Result<Self, Invalid> {
        let mut reader = Reader::with_lists(parameters, PARAMETERS, LISTS);
        let sites = super::sites(&mut reader);
        let mut types = reader.read_all("type", |text| {
            let of = text.parse::<EventType>();
            of.map_err(|reason| ("not_a_type", reason.to_string()))
        });
        types.sort_unstable();
        types.dedup();
        let from = reader.read("from", instant);
        let to = reader.read("to", instant);
        let interval = reader.read("interval", |text| one_of(INTERVALS, text));
        let limit = reader.read("limit", limit).unwrap_or(DEFAULT_LIMIT);
        let after = reader.read("after", |text| {
            let cursor = text.parse::<CountersCursor>();
            cursor.map_err(|reason| ("not_a_cursor", reason.to_string()))
        });
        let Some(cursor) = after else {
            let window = window(&mut reader, from, to, accepted);
            reader.finish()?;
            return Ok(Self {
                window,
                interval: interval.unwrap_or(Interval::Day),
                sites,
                types,
                limit,
                after: None,
            });
        };
        let question = CountersCursor::question(&sites, &types);
        let differs = [
            ("from", from.is_some_and(|from| from != cursor.window.from)),
            ("to", to.is_some_and(|to| to != cursor.window.until)),
            ("interval", interval.is_some_and(|i| i != cursor.interval)),
        ];
        for (name, _) in differs.into_iter().filter(|(_, differs)| *differs) {
            let detail = "is not what it was when `after` was given out; leave it out";
            reader.refuse(name, ("differs_from_cursor", detail.to_owned()));
        }
        if question != cursor.question && !reader.is_bad("site_id") && !reader.is_bad("type") {
            let detail = "was given out for other values of site_id or type; give the same again";
            reader.refuse("after", ("differs_from_cursor", detail.to_owned()));
        }
        reader.finish()?;
        Ok(Self {
            window: cursor.window,
            interval: cursor.interval,
            sites,
            types,
            limit,
            after: Some((cursor.start, cursor.site_id)),
        })
    }

    /// The answer, from its rows in order, of which one more than asked for tells that there are more.
    pub fn page(&self, mut counters: Vec<Counter>) -> CountersPage {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = counters.len() > limit;
        counters.truncate(limit);
        let cursor = |last: &Counter| CountersCursor {
            window: self.window,
            interval: self.interval,
            question: CountersCursor::question(&self.sites, &self.types),
            start: last.start,
            site_id: last.site_id,
        };
        let next = counters.last().filter(|_| more).map(cursor);
        CountersPage { counters, next }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    const SITES: [&str; 2] = [
        "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93",
        "0e9ab300-ed26-42e9-97e0-11b7f8102383",
    ];

    fn read(pairs: &[(&str, &str)]) -> Result<CountersQuery, Vec<(String, &'static str)>> {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let pairs = pairs.iter();
        let pairs = pairs.map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())));
        let accepted = AcceptanceWindow::new(now, 30, 0);
        CountersQuery::read(&Parameters(pairs.collect()), &accepted).map_err(|invalid| {
            let errors = invalid.errors().iter();
            errors.map(|e| (e.field.to_string(), e.code)).collect()
        })
    }

    #[test]
    fn lists_are_given_one_by_one_and_everything_else_once() {
        let query = read(&[
            ("site_id", SITES[0]),
            ("site_id", SITES[1]),
            ("site_id", SITES[0]),
            ("type", "solve"),
            ("type", "serve"),
        ])
        .unwrap();
        assert_eq!(
            query.sites,
            [SITES[1], SITES[0]].map(|s| s.parse().unwrap())
        );
        assert_eq!(query.types, [EventType::SERVE, EventType::SOLVE]);
        assert_eq!((query.limit, query.interval), (100, Interval::Day));
        assert_eq!(query.window.until.unix() - query.window.from.unix(), 86_400);
        let bad = read(&[
            ("site_id", "x"),
            ("site_id", SITES[0]),
            ("site_id", ""),
            ("type", "A"),
            ("interval", "total"),
            ("limit", "0"),
            ("limit", "1"),
            ("site", "1"),
        ]);
        let mut bad: Vec<_> = bad.unwrap_err();
        bad.sort_unstable();
        let named = [
            ("interval", "unknown_value"),
            ("limit", "out_of_range"),
            ("limit", "repeated_parameter"),
            ("site", "unknown_parameter"),
            ("site_id", "not_a_uuid"),
            ("site_id", "not_a_uuid"),
            ("type", "not_a_type"),
        ];
        assert_eq!(bad, named.map(|(name, code)| (name.to_owned(), code)));
    }

    #[test]
    fn a_cursor_goes_on_with_the_same_question_only() {
        let row = |start, site: &str| Counter {
            start: CreatedAt::from_unix(start),
            site_id: site.parse().unwrap(),
            counts: vec![("serve".to_owned(), 1)],
        };
        let query = read(&[("site_id", SITES[0]), ("limit", "1")]).unwrap();
        let page = query.page(vec![
            row(1_799_971_200, SITES[0]),
            row(1_799_971_201, SITES[1]),
        ]);
        assert_eq!(page.counters.len(), 1);
        let next = page.next.unwrap().to_string();
        let on = read(&[("site_id", SITES[0]), ("after", &next)]).unwrap();
        assert_eq!(on.window, query.window);
        assert_eq!(
            on.after,
            Some((CreatedAt::from_unix(1_799_971_200), query.sites[0]))
        );
        let refused = |pairs: &[(&str, &str)]| {
            let pairs = [pairs, &[("after", next.as_str())]].concat();
            read(&pairs).unwrap_err()
        };
        let differs = |name: &str| vec![(name.to_owned(), "differs_from_cursor")];
        assert_eq!(refused(&[]), differs("after"));
        assert_eq!(
            refused(&[("site_id", SITES[0]), ("type", "serve")]),
            differs("after")
        );
        assert_eq!(
            refused(&[("site_id", SITES[0]), ("interval", "hour")]),
            differs("interval")
        );
        let last = query.page(vec![row(1_799_971_200, SITES[0])]);
        assert_eq!(last.next, None);
    }
}
