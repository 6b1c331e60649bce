//! The ClickHouse server's clock as the pre-aggregate sees it, in the hands of a test.
//!
//! Only two things read that clock: the column of marks, whose expression is changed here, and the
//! sealer, to whose steps a test gives the time itself.

use traffic_api::domain::Stream;
use traffic_api::repository;

use super::ClickHouse;

const NOW: &str = "now64(3, 'UTC')";
const NEVER: &str = "toDateTime64(0, 3, 'UTC')";

/// The claims of a stream, and the migration since which they are marked.
fn marked(stream: Stream) -> (&'static str, &'static str) {
    match stream {
        Stream::PageViews => ("traffic", "0008_traffic_late"),
        Stream::Events => ("events", "0010_events"),
    }
}

pub struct MarkClock {
    clickhouse: ClickHouse,
    database: String,
    claims: &'static str,
    expression: String,
}

impl MarkClock {
    /// Of a database that is migrated; its marks are trusted from the beginning of time on.
    pub async fn new(clickhouse: &ClickHouse, database: &str, stream: Stream) -> Self {
        trust_marks_since(clickhouse, database, stream, "2020-01-01").await;
        let (claims, _) = marked(stream);
        let sql = format!(
            "SELECT default_expression FROM system.columns WHERE database = '{database}' \
             AND table = '{}' AND name = 'late_at' FORMAT TSVRaw",
            match clickhouse.cluster {
                Some(_) => format!("{claims}_local"),
                None => claims.to_owned(),
            }
        );
        let expression = clickhouse.sql(database, &sql).await;
        assert_eq!(expression.matches(NOW).count(), 2, "{expression}");
        Self {
            clickhouse: clickhouse.clone(),
            database: database.to_owned(),
            claims,
            expression,
        }
    }

    /// From now on rows come at this time, in milliseconds since the epoch.
    pub async fn set(&self, millis: i64) {
        let now = format!("fromUnixTimestamp64Milli(toInt64({millis}), 'UTC')");
        self.change(&self.expression.replace(NOW, &now)).await;
    }

    /// From now on rows come when they do.
    pub async fn follow_the_server(&self) {
        self.change(&self.expression).await;
    }

    /// From now on rows come without marks.
    pub async fn stop(&self) {
        self.change(NEVER).await;
    }

    /// Takes the marks of all rows away.
    pub async fn clear(&self) {
        self.stop().await;
        let claims = self.clickhouse.rows_of(self.claims);
        self.sql(&format!(
            "ALTER TABLE {claims} MATERIALIZE COLUMN late_at SETTINGS mutations_sync = 2"
        ))
        .await;
    }

    /// Runs SQL in the database.
    pub async fn sql(&self, sql: &str) -> String {
        self.clickhouse.sql(&self.database, sql).await
    }

    async fn change(&self, expression: &str) {
        let claims = self.clickhouse.rows_of(self.claims);
        let sql = format!(
            "ALTER TABLE {claims} MODIFY COLUMN late_at DateTime64(3, 'UTC') \
             MATERIALIZED {expression} CODEC(Delta(8), ZSTD(1))"
        );
        self.clickhouse.sql(&self.database, &sql).await;
    }
}

/// As if rows had been marked since then.
pub async fn trust_marks_since(
    clickhouse: &ClickHouse,
    database: &str,
    stream: Stream,
    date: &str,
) {
    let (then, (_, name)) = (format!("toDateTime64('{date}', 3, 'UTC')"), marked(stream));
    // Read, deleted and written anew: of an older and a newer row a merge would keep the newer.
    let recorded = format!(
        "SELECT version, name, checksum FROM schema_migrations WHERE name = '{name}' LIMIT 1 \
         FORMAT Values"
    );
    let recorded = clickhouse.sql(database, &recorded).await;
    let delete = format!(
        "ALTER TABLE {} DELETE WHERE name = '{name}' SETTINGS mutations_sync = 2",
        clickhouse.rows_of("schema_migrations")
    );
    clickhouse.sql(database, &delete).await;
    let older = recorded.trim_end_matches(')');
    let insert = format!(
        "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES {older}, {then})"
    );
    clickhouse.sql(database, &insert).await;
}

/// The service's own way to a database.
pub fn repository(clickhouse: &ClickHouse, database: &str) -> repository::ClickHouse {
    let connection = repository::Connection {
        url: clickhouse.url.clone(),
        user: clickhouse.user.clone(),
        password: clickhouse.password.clone(),
    };
    let schema = repository::Schema {
        database: database.to_owned(),
        cluster: clickhouse.cluster.map(str::to_owned),
        retention_days: 90,
        event_retention_days: Some(30),
        fsync: false,
    };
    let locate = std::sync::Arc::new(move || Some(connection.clone()));
    repository::ClickHouse::new(locate, schema)
}
