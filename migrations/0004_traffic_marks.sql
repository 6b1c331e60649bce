-- Which hours got a row after they were over: of a user (scope 'user'), and of anybody (scope 'site',
-- user 0). Sealed counts are good only where they are younger than the newest mark, so marks are
-- never cleared, and they outlive the hour's own rows by a day.
CREATE TABLE IF NOT EXISTS ${table:traffic_marks}${on_cluster}
(
    scope Enum8('user' = 0, 'site' = 1),
    user_id UInt32,
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    marked_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ${engine:ReplacingMergeTree(marked_at)}
PARTITION BY toDate(hour)
ORDER BY (scope, user_id, hour)
TTL toStartOfDay(hour) + toIntervalDay(${retention_days+2})
SETTINGS ttl_only_drop_parts = 1, index_granularity = 1024;

-- Marks in the same insert. The half hour spares the rows that come a little late; it must stay well
-- below the time after which an hour is sealed (MARK_SLACK in src/repository/seals.rs).
CREATE MATERIALIZED VIEW IF NOT EXISTS traffic_marks_mv${on_cluster}
TO ${table:traffic_marks}
AS SELECT
    if(grouping(user_id) = 0, 'user', 'site') AS scope,
    user_id,
    toStartOfHour(created_at) AS hour,
    now64(3, 'UTC') AS marked_at
FROM ${table:traffic}
WHERE created_at < toStartOfHour(now64(3, 'UTC') - toIntervalSecond(1800))
GROUP BY GROUPING SETS ((user_id, hour), (hour));

-- only: cluster
CREATE TABLE IF NOT EXISTS traffic_marks${on_cluster} AS traffic_marks_local
ENGINE = Distributed(${cluster}, '${database}', 'traffic_marks_local', user_id);
