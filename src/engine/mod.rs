//! The ClickHouse behind the service: a server that already runs elsewhere, or one that this module
//! runs itself as a child process.
//!
//! Invariants:
//! - The engine never outlives the service, whatever ends the service: a clean stop, a panic, a
//!   `Drop`, `SIGKILL`.
//! - An endpoint is published only while the very process that we started owns the listening
//!   socket behind it; the moment that process ends, the endpoint is withdrawn.
//! - One data path has at most one engine.
//! - A library under its final name in the cache is whole and of the pinned digest.
//!
//! What this module refuses to know: SQL schemas, what the engine is used for, the configuration
//! of the service, and every other module of the crate. It is told paths and hands out endpoints.
//!
//! The engine is `libchdb.so`, a real ClickHouse in a shared library. The service runs its own
//! executable again with [`CHILD_SUBCOMMAND`]; that child opens the library and serves HTTP on a
//! free port of the loopback interface until its standard input ends.

mod child;
mod config;
mod error;
mod fetch;
mod process;
mod progress;
mod socket;
mod supervise;
mod unpack;

use std::fmt;
use std::path::PathBuf;

use tokio::sync::watch;

pub use child::{run_child, run_child_if_asked};
pub use error::Error;
pub use fetch::library;
pub use supervise::{Embedded, Vitals};

/// The hidden subcommand under which the executable becomes the engine.
pub const CHILD_SUBCOMMAND: &str = "engine-child";

/// What an embedded engine needs to be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The executable that understands [`CHILD_SUBCOMMAND`]; normally the running one.
    pub program: PathBuf,
    /// Where ClickHouse keeps its data. Its log is written beside it, as `engine.log`.
    pub data_path: PathBuf,
    /// Where the library is kept between starts, see [`default_cache_dir`].
    pub cache_dir: PathBuf,
}

/// How to reach a ClickHouse over HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://host:port`, without a path.
    pub url: String,
    /// The user to authenticate as.
    pub user: String,
    /// That user's password; never printed.
    pub password: String,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("password", &format_args!("***"))
            .finish()
    }
}

/// The ClickHouse that the service talks to.
#[derive(Debug)]
pub enum Engine {
    /// A server that somebody else runs.
    External(External),
    /// A child process of this service. Dropping it ends the child too, without waiting for it.
    Embedded(Embedded),
}

/// A server that somebody else runs: always published, never supervised.
#[derive(Debug)]
pub struct External(watch::Sender<Option<Endpoint>>);

impl Engine {
    /// Uses a server that already runs. Nothing is checked here.
    pub fn external(endpoint: Endpoint) -> Self {
        Self::External(External(watch::Sender::new(Some(endpoint))))
    }

    /// Fetches the library if the cache lacks it, starts the engine and waits until it answers.
    ///
    /// Cancel-safe: a dropped future leaves no process and no wrong file behind.
    pub async fn embedded(settings: Settings) -> Result<Self, Error> {
        let library = library(&settings.cache_dir).await?;
        Ok(Self::Embedded(Embedded::start(settings, library).await?))
    }

    /// The endpoint as it changes: `None` while the child is down, a new one after each restart.
    pub fn endpoint(&self) -> watch::Receiver<Option<Endpoint>> {
        match self {
            Self::External(external) => external.0.subscribe(),
            Self::Embedded(embedded) => embedded.endpoint(),
        }
    }

    /// Ends the child cleanly, by force after a deadline, and waits until it is gone.
    pub async fn stop(self) {
        match self {
            Self::External(_) => {}
            Self::Embedded(embedded) => embedded.stop().await,
        }
    }

    /// What can be asked of the child while somebody else holds the engine; nothing for a server that
    /// somebody else runs.
    pub fn vitals(&self) -> Option<Vitals> {
        match self {
            Self::External(_) => None,
            Self::Embedded(embedded) => Some(embedded.vitals()),
        }
    }

    /// How often the child was started again after it had died.
    pub fn restarts(&self) -> u64 {
        match self {
            Self::External(_) => 0,
            Self::Embedded(embedded) => embedded.restarts(),
        }
    }

    /// The child's process id, while it is ready.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::External(_) => None,
            Self::Embedded(embedded) => embedded.pid(),
        }
    }
}

/// The per-user cache: `$XDG_CACHE_HOME/traffic-api/engine`, else the same under `$HOME/.cache`.
pub fn default_cache_dir() -> Result<PathBuf, Error> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("traffic-api").join("engine"))
        .ok_or(Error::NoCacheDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_password() {
        let endpoint = Endpoint {
            url: "http://h:1".into(),
            user: "u".into(),
            password: "secret".into(),
        };
        let text = format!("{:?}", Engine::external(endpoint));
        assert!(
            text.contains("http://h:1") && !text.contains("secret"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_external_engine_stays_published() {
        let endpoint = Endpoint {
            url: "http://h:1".into(),
            user: "u".into(),
            password: String::new(),
        };
        let engine = Engine::external(endpoint.clone());
        assert_eq!(*engine.endpoint().borrow(), Some(endpoint));
        assert!(engine.endpoint().has_changed().is_ok());
        assert_eq!((engine.pid(), engine.restarts()), (None, 0));
        engine.stop().await;
    }
}
