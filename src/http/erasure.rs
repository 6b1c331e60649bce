//! `/api/users/{user_id}/traffic`: all that is known of one person.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::access::Caller;
use super::extract::PathId;
use super::openapi::Malformed;
use super::problem::Problem;
use super::state::Shared;
use crate::domain::UserId;
use crate::repository::Erased;

/// What an erasure did.
#[derive(Serialize, ToSchema)]
pub(super) struct ErasureReceipt {
    /// Who was erased.
    #[schema(example = 42)]
    user_id: u32,
    /// Everything up to this second, itself included, is erased, whenever and wherever it arrives.
    #[schema(example = "2026-01-31T12:00:00Z", format = DateTime)]
    erased_until: String,
    /// The rows about the user in each table of ClickHouse, copies and tombstones included.
    tables: Vec<ErasedTable>,
    /// What waited on this instance's disk.
    spool: ErasedSpool,
}

/// The rows about a user in one table.
#[derive(Serialize, ToSchema)]
pub(super) struct ErasedTable {
    /// Its name.
    #[schema(example = "traffic")]
    table: &'static str,
    /// How many there were.
    #[schema(example = 120)]
    before: u64,
    /// How many there are.
    #[schema(example = 0)]
    after: u64,
}

/// The rows about a user in the spool of one instance.
#[derive(Serialize, ToSchema)]
pub(super) struct ErasedSpool {
    /// How many there were, in quarantine too.
    #[schema(example = 3)]
    before: u64,
    /// How many there are.
    #[schema(example = 0)]
    after: u64,
    /// Files in it that can't be read, so that nobody knows whom they are about; see `traffic-api
    /// spool list`.
    #[schema(example = 0)]
    unreadable_files: u64,
}

impl ErasureReceipt {
    fn new(user: UserId, erased: &Erased) -> Self {
        let tables = erased.tables.iter().map(|rows| ErasedTable {
            table: rows.table,
            before: rows.before,
            after: rows.after,
        });
        Self {
            user_id: user.get(),
            erased_until: erased.until.to_string(),
            tables: tables.collect(),
            spool: ErasedSpool {
                before: erased.spool.rows,
                after: erased.spool_after,
                unreadable_files: erased.spool.unreadable,
            },
        }
    }
}

/// Erase a person
///
/// Everything about the user up to now goes: views, their old versions and tombstones, counts, and what
/// waits on this instance's disk. 200 means that it is gone from ClickHouse's tables on all replicas, and
/// from this disk; other instances clear their disks within seconds. Whatever happened up to
/// `erased_until` and arrives later (a retry, a replay) is refused or dropped; what happens later
/// is a new view. Idempotent: asked for again, it finds nothing, or does what was left. Without a 200, ask
/// again; the erasure may have been recorded, and then goes on by itself.
#[utoipa::path(delete, path = "/api/users/{user_id}/traffic", operation_id = "erase",
    tag = "privacy",
    security(("bearer" = ["admin"])),
    extensions(("x-restricted-keys" = json!(true)), ("x-cost" = json!(100))),
    params(("user_id" = u32, Path, maximum = 4294967295_u64, description = "Who is to be erased")),
    responses((status = OK, description = "Gone", body = ErasureReceipt), Malformed,
        (status = SERVICE_UNAVAILABLE, content_type = "application/problem+json",
            description = "Not all of it is known to be gone; ask again", body = Problem,
            headers(("retry-after" = u32, description = "Seconds to wait before the next try")))))]
pub(super) async fn delete(
    State(state): State<Shared>,
    caller: Caller,
    PathId(user): PathId<UserId>,
) -> Result<Json<ErasureReceipt>, Problem> {
    caller.check_user(user)?;
    let (user_id, key) = (user.get(), caller.key_id());
    // Whoever must show that it was done, or do it again in a backup, has only this.
    info!(user_id, key, "erasure asked for");
    let erased = state.eraser.erase(user).await?;
    let (until, rows) = (erased.until.to_string(), erased.rows());
    info!(user_id, key, until, rows, "person erased");
    Ok(Json(ErasureReceipt::new(user, &erased)))
}
