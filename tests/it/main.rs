//! The integration tests: the real service through real HTTP on a real ClickHouse.
//!
//! One engine process for the whole run, one database and one service on port 0 per test, so the
//! tests run in parallel. Tests of the program itself (starts, stops, kills) spawn the real binary.

mod auth;
mod backup;
mod batches;
mod browsers;
mod chaos;
mod cli;
mod cluster;
mod concurrency;
mod connections;
mod contract;
mod dashboard;
mod deployment;
mod engine;
mod erasure_faults;
mod event_reports;
mod events;
mod full_disk;
mod generate;
mod history;
mod hostile;
mod injection;
mod leaks;
mod logs;
mod metrics;
mod migrations;
mod monitoring;
mod nginx;
mod obvious_schemas;
mod outage;
mod privacy;
mod problems;
mod rate_limits;
mod reconcile;
mod refused_bodies;
mod reports;
mod sealing;
mod support;
mod tls;
