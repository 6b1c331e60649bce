//! `traffic-api` takes in page views over HTTP, stores them in ClickHouse, and answers exact
//! reports: per user in the last 24 hours and by day, and on the pages of the site.
//!
//! ```text
//!            POST ─► http ─► domain ─► pipeline ─┬─► repository ─► ClickHouse
//!                     │    (a valid   (admission,│   (rows, SQL)   (embedded child
//!                     │     view, or   receipt,  │        ▲         process, or a
//!                     │     every bad  group     │        │         server of your
//!                     │     field)     commit)   └─► spool replay   own)
//!                     │                             (fsynced)        │
//!  PUT PATCH DELETE ─►│                                              │
//!             GET ◄── http ◄──────────────────── repository ◄────────┘
//!                                              (claims, reports)
//! ```
//!
//! Read the modules in the order in which data flows:
//!
//! 1. [`config`], [`telemetry`]: settings and logging.
//! 2. [`access`]: who may call, and how often.
//! 3. [`http`]: the API, where every answer says where the data is and every error is a problem
//!    document; and a page for people, which asks it.
//! 4. [`domain`]: pure rules: what a view is, how rival claims about one are settled, and what can be
//!    asked of the reports.
//! 5. [`pipeline`]: admission by byte budget, a receipt, group commit into a sink, and the spool on
//!    disk for what the sink can't take now.
//! 6. [`repository`]: ClickHouse: the sink, the update protocol, the reports, the migrations.
//! 7. [`engine`]: where ClickHouse comes from when none is configured.
//! 8. [`tls`]: certificates, for those who serve and those who call.
//! 9. [`app`]: puts them together; the only module that knows everyone. Beside it [`operator`]: the
//!    commands that look at the spool and the keys from outside, [`generate`], a client that makes
//!    traffic up, and [`probe`], a health check.
//!
//! `tests/architecture.rs` enforces who may know whom; `docs/data-model.md` says why the counts are
//! exact.

pub mod access;
pub mod app;
pub mod config;
pub mod domain;
pub mod engine;
pub mod generate;
pub mod http;
pub mod operator;
pub mod pipeline;
pub mod probe;
pub mod repository;
pub mod telemetry;
pub mod tls;
