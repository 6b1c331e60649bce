//! What can be asked of the service, and what it answers.
//!
//! Purpose: turn the parameters of a report into a question that cannot be wrong, with every date and
//! default resolved to instants, and hold the answers in their order.
//!
//! Refuses to know: where counts come from.

mod cursor;
mod days;
mod events;
mod pages;
mod parameters;
mod site;
mod window;

pub use cursor::Cursor;
pub use days::{DayViews, DaysQuery, DaysReport};
pub use events::{
    Counter, CountersCursor, CountersPage, CountersQuery, Funnel, FunnelQuery, FunnelReport,
};
use pages::DEFAULT_LIMIT;
pub use pages::{Interval, MAX_LIMIT, PageTotal, PagesPage, PagesQuery, PagesRequest};
pub use parameters::Parameters;
pub use site::{MAX_INTERVALS, SiteQuery, SiteTotal};
pub use window::{DailyReport, ReportWindow};
