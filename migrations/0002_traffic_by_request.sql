-- The same claims by request id, for looking up and updating one view. Kept a day longer than the
-- raw table, so that a claim that is still counted can always be found.
CREATE TABLE IF NOT EXISTS ${table:traffic_by_request}${on_cluster}
(
    request_id UInt64,
    user_id UInt32,
    created_at DateTime('UTC'),
    page_url LowCardinality(String),
    version UInt64,
    is_deleted UInt8
)
ENGINE = ${engine:ReplacingMergeTree(version, is_deleted)}
PRIMARY KEY request_id
ORDER BY (request_id, user_id, created_at, page_url)
TTL toStartOfDay(created_at) + toIntervalDay(${retention_days+2})
SETTINGS index_granularity = 1024;

-- Copies every row, tombstones included, in the same insert.
CREATE MATERIALIZED VIEW IF NOT EXISTS traffic_by_request_mv${on_cluster}
TO ${table:traffic_by_request}
AS SELECT request_id, user_id, created_at, page_url, version, is_deleted
FROM ${table:traffic};

-- only: cluster
CREATE TABLE IF NOT EXISTS traffic_by_request${on_cluster} AS traffic_by_request_local
ENGINE = Distributed(${cluster}, '${database}', 'traffic_by_request_local', user_id);
