//! When views happen: more by day than by night, fewer at weekends.

use chrono::{DateTime, Datelike, Timelike, Weekday};

const HOUR: u32 = 3600;
/// How much happens in each hour of a day of UTC, in any unit.
const HOURS: [f64; 24] = [
    2.2, 1.7, 1.4, 1.2, 1.2, 1.5, 2.3, 3.4, 4.6, 5.4, 5.8, 5.9, 5.7, 5.8, 6.0, 5.9, 5.7, 5.5, 5.6,
    5.9, 6.0, 5.3, 4.2, 3.1,
];
/// What is left of it on Saturdays and Sundays.
const WEEKEND: f64 = 0.7;

/// How views spread over a range of time.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    /// Starts of the pieces, and the end of the last, in seconds since the epoch.
    at: Vec<u32>,
    /// How much has happened up to each of them, from 0 to 1.
    by: Vec<f64>,
}

impl Curve {
    /// The daily curve from `from` to `until`, in seconds since the epoch.
    pub(super) fn daily(from: u32, until: u32) -> Self {
        let (mut at, mut by, mut sum) = (vec![from], vec![0.0], 0.0);
        let mut start = from;
        while start < until {
            let end = (start - start % HOUR).saturating_add(HOUR).min(until);
            sum += weight(start) * f64::from(end - start);
            at.push(end);
            by.push(sum);
            start = end;
        }
        if sum > 0.0 {
            by.iter_mut().for_each(|part| *part /= sum);
        }
        Self { at, by }
    }

    /// As much in every second.
    pub(super) fn even(from: u32, until: u32) -> Self {
        Self {
            at: vec![from, until],
            by: vec![0.0, 1.0],
        }
    }

    /// The first second.
    pub(super) fn from(&self) -> u32 {
        self.at.first().copied().unwrap_or_default()
    }

    /// The time by which `part` (0 to 1) of all views have happened.
    pub(super) fn time(&self, part: f64) -> u32 {
        let piece = self.by.partition_point(|by| *by <= part).max(1) - 1;
        let start = self.at[piece];
        let (Some(end), Some(by)) = (self.at.get(piece + 1), self.by.get(piece + 1)) else {
            return start;
        };
        let within = (part - self.by[piece]) / (by - self.by[piece]);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most the length of the piece"
        )]
        let seconds = (within * f64::from(end - start)) as u32;
        start + seconds
    }
}

fn weight(at: u32) -> f64 {
    let time = DateTime::from_timestamp(i64::from(at), 0).unwrap_or_default();
    let hour = HOURS[time.hour() as usize % HOURS.len()];
    match time.weekday() {
        Weekday::Sat | Weekday::Sun => hour * WEEKEND,
        _ => hour,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Monday.
    const MIDNIGHT: u32 = 1_700_438_400;

    #[test]
    fn times_rise_within_the_range() {
        let (from, until) = (MIDNIGHT + 1234, MIDNIGHT + 3 * 86_400 + 55);
        let curve = Curve::daily(from, until);
        let mut last = 0;
        for part in 0..=10_000 {
            let time = curve.time(f64::from(part) / 10_000.0);
            assert!(time >= last.max(from) && time <= until, "{part}: {time}");
            last = time;
        }
        assert_eq!((curve.time(0.0), curve.time(1.0)), (from, until));
    }

    #[test]
    fn nights_and_weekends_are_quieter() {
        let curve = Curve::daily(MIDNIGHT, MIDNIGHT + 7 * 86_400);
        let views = 100_000;
        let (mut night, mut noon, mut saturday, mut monday) = (0, 0, 0, 0);
        for view in 0..views {
            let since = curve.time(f64::from(view) / f64::from(views)) - MIDNIGHT;
            match since % 86_400 / HOUR {
                3 => night += 1,
                14 => noon += 1,
                _ => {}
            }
            match since / 86_400 {
                0 => monday += 1,
                5 => saturday += 1,
                _ => {}
            }
        }
        assert!((4.9..5.1).contains(&(f64::from(noon) / f64::from(night))));
        assert!((0.69..0.71).contains(&(f64::from(saturday) / f64::from(monday))));
    }

    #[test]
    fn an_even_curve_is_a_line() {
        let curve = Curve::even(100, 200);
        assert_eq!(
            [0.0, 0.25, 0.999].map(|part| curve.time(part)),
            [100, 125, 199]
        );
    }
}
