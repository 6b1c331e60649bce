//! Who is let in: the middleware in front of all routes, and what handlers learn of the caller.
//!
//! What an operation needs is written where the operation is, in its OpenAPI description, and read from
//! there: `security` names the scope (or nothing, for an open one), `x-restricted-keys` says that the
//! handler judges users itself, `x-cost` what a report costs. A route that says nothing is closed.

mod caller;
mod credentials;
mod guard;
mod rules;

pub(super) use caller::{Caller, Who};
pub(super) use credentials::API_KEY;
pub use guard::Access;
pub(super) use guard::{Guard, RATE_LIMIT, RATE_LIMIT_POLICY, guard};
pub(super) use rules::{SCHEME, needs_key};
