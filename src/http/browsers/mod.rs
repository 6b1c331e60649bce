//! Browsers: what pages of other sites may do with this service, and what browsers are told to do with
//! its answers.
//!
//! A browser sends what any page in it wants to send. Where callers need a key, that is no danger: no
//! browser adds the key by itself, so a page that can call has been given one. Where they need none, who
//! calls is known only by what the browser says of the page: by which name it called the service
//! ([`hosts`]) and where it comes from ([`origins`]). What answers carry is in [`headers`].

mod headers;
mod hosts;
mod layer;
mod origins;

pub(super) use headers::PAGE_HEADERS;
pub use hosts::Hosts;
pub(super) use layer::Protect;
pub use origins::Origins;
pub(super) use origins::cors;

/// What pages may do; cheap to ask.
pub struct Browsers {
    /// By which names the service may be called.
    pub hosts: Hosts,
    /// Which pages may call.
    pub origins: Origins,
    /// Whether only those: where a page needs nothing else to be let in.
    pub foreign_pages_are_refused: bool,
}

impl Browsers {
    /// Nobody is refused, and pages of other origins read nothing.
    pub fn everybody() -> Self {
        Self {
            hosts: Hosts::Any,
            origins: Origins::None,
            foreign_pages_are_refused: false,
        }
    }
}
