//! The ClickHouse server's clock as the pre-aggregate sees it, in the hands of a test.
//!
//! Only two things read that clock: the view of marks, whose text is changed here, and the sealer, to
//! whose steps a test gives the time itself.

use traffic_api::repository;

use super::ClickHouse;

pub struct MarkClock {
    clickhouse: ClickHouse,
    database: String,
    query: String,
}

impl MarkClock {
    /// Of a database that is migrated; its marks are trusted from the beginning of time on.
    pub async fn new(clickhouse: &ClickHouse, database: &str) -> Self {
        trust_marks_since(clickhouse, database, "2020-01-01").await;
        let sql = format!(
            "SELECT as_select FROM system.tables WHERE database = '{database}' \
             AND name = 'traffic_marks_mv' FORMAT TSVRaw"
        );
        let query = clickhouse.sql(database, &sql).await;
        assert_eq!(query.matches("now64(3, 'UTC')").count(), 2, "{query}");
        Self {
            clickhouse: clickhouse.clone(),
            database: database.to_owned(),
            query,
        }
    }

    /// From now on rows come at this time, in milliseconds since the epoch.
    pub async fn set(&self, millis: i64) {
        let now = format!("fromUnixTimestamp64Milli(toInt64({millis}), 'UTC')");
        self.change(&self.query.replace("now64(3, 'UTC')", &now))
            .await;
    }

    /// From now on rows come without marks.
    pub async fn stop(&self) {
        self.change(&self.query.replace("WHERE ", "WHERE 0 AND "))
            .await;
    }

    /// Marks that a row (as in `INSERT ... VALUES`) would leave if it came now; without the row.
    pub async fn mark_only(&self, row: &str) {
        let sql = "SELECT as_select FROM system.tables WHERE database = currentDatabase() \
                   AND name = 'traffic_marks_mv' FORMAT TSVRaw";
        let source = format!(
            "FROM (SELECT * FROM values('request_id UInt64, user_id UInt32, \
             created_at DateTime(\\'UTC\\'), page_url String, version UInt64, is_deleted UInt8', {row}))"
        );
        let query = self.sql(sql).await;
        let table = format!("FROM {}.traffic", self.database);
        assert_eq!(query.matches(&table).count(), 1, "{query}");
        let query = query.replace(&table, &source);
        self.sql(&format!("INSERT INTO traffic_marks {query}"))
            .await;
    }

    /// Runs SQL in the database.
    pub async fn sql(&self, sql: &str) -> String {
        self.clickhouse.sql(&self.database, sql).await
    }

    async fn change(&self, query: &str) {
        let sql = format!("ALTER TABLE traffic_marks_mv MODIFY QUERY {query}");
        self.clickhouse.sql(&self.database, &sql).await;
    }
}

/// As if the view of marks had been created then.
pub async fn trust_marks_since(clickhouse: &ClickHouse, database: &str, date: &str) {
    let then = format!("toDateTime64('{date}', 3, 'UTC')");
    let older = format!(
        "INSERT INTO schema_migrations SELECT version, name, checksum, {then} AS applied_at \
         FROM schema_migrations WHERE name = '0004_traffic_marks' LIMIT 1"
    );
    clickhouse.sql(database, &older).await;
    let sql = format!(
        "ALTER TABLE schema_migrations DELETE WHERE name = '0004_traffic_marks' \
         AND applied_at != {then} SETTINGS mutations_sync = 1"
    );
    clickhouse.sql(database, &sql).await;
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
        cluster: None,
        retention_days: 90,
        fsync: false,
    };
    let locate = std::sync::Arc::new(move || Some(connection.clone()));
    repository::ClickHouse::new(locate, schema)
}
