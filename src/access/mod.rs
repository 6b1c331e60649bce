//! Who may do what, and how often.
//!
//! Purpose: keys with scopes and restrictions, and limits by key and by client address; as plain
//! functions of what was presented and of the time. The HTTP interface asks; it owns the answers'
//! form.
//!
//! Invariants: a key's secret exists in the hands of its client only: what is kept, in files and in
//! memory, is a salted hash. What is compared with a secret is compared in constant time, and an
//! unknown key costs what a wrong one does. The memory of the limits is fixed when they are made,
//! whoever calls.
//!
//! Refuses to know: HTTP, routes, where settings come from.

mod buckets;
mod key;
mod key_file;
mod keyring;
mod limits;
mod proxies;
mod scope;
mod secret;

pub use buckets::{Buckets, Rate, Taken};
pub use key::{Key, Restrictions, check_client, check_path};
pub use key_file::{FileError, KeyFile};
pub use keyring::{Denied, KeyError, Keyring, Keys, Loaded};
pub use limits::{Direction, LimitSettings, Limits, Standing};
pub use proxies::{Proxies, sender};
pub use scope::{Scope, Scopes};
pub use secret::Credential;
