//! Page views and events that nobody made: for demonstrations, for load, for a dashboard with something on it.
//!
//! Purpose: the traffic of a site as a function of its settings, and ways to send it off: as lines, or
//! to a running service through its API.
//!
//! Invariants: view number `n` of the same settings is always the same view, so nothing is remembered
//! and memory does not grow with their number; settings that give other views give other request ids,
//! so two runs never contradict each other; what the service did not acknowledge is sent again, and what
//! is given up is counted as lost.
//!
//! Refuses to know: the service's inside. It is a client like any other.

mod client;
mod curve;
mod events;
mod lines;
mod load;
mod pages;
mod source;
mod tally;
mod traffic;

pub use events::{EventShape, LONGEST_VISIT, Visits, line};
pub use lines::write_lines;
pub use load::{Compression, Load, Style};
pub use source::Source;
pub use tally::Tally;
pub use traffic::{Shape, Times, Traffic};
