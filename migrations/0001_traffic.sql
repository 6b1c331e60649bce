-- The raw table: the set of all claims. A row says "request_id is the view (user_id, created_at,
-- page_url)", or with is_deleted = 1 that it is not any more; of the rows of one tuple the highest
-- version counts. page_url is part of the key so that rival claims stay visible until settled.
-- All rows of a partition expire at one instant, a whole day after the retention: a tombstone must
-- never go before the claim that it hides. The expression is a DateTime('UTC') because a Date would
-- expire by the server's time zone.
CREATE TABLE IF NOT EXISTS ${table:traffic}${on_cluster}
(
    request_id UInt64,
    user_id UInt32,
    created_at DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    page_url LowCardinality(String),
    version UInt64 CODEC(Delta(8), ZSTD(1)),
    is_deleted UInt8 CODEC(ZSTD(1))
)
ENGINE = ${engine:ReplacingMergeTree(version, is_deleted)}
PARTITION BY toDate(created_at)
PRIMARY KEY (user_id, created_at)
ORDER BY (user_id, created_at, request_id, page_url)
TTL toStartOfDay(created_at) + toIntervalDay(${retention_days+1})
SETTINGS ttl_only_drop_parts = 1;

-- only: cluster
CREATE TABLE IF NOT EXISTS traffic${on_cluster} AS traffic_local
ENGINE = Distributed(${cluster}, '${database}', 'traffic_local', user_id);
