-- Long answers about the pages of the site, as they stood when they were first asked for, so that a
-- client can read them in parts. Rows are ranked from 1 without gaps. The service gives a cursor an
-- hour; what is older goes a part at a time.
CREATE TABLE IF NOT EXISTS traffic_pages_snapshots${on_cluster}
(
    snapshot UUID,
    rank UInt64 CODEC(Delta(8), ZSTD(1)),
    start DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    page_url String CODEC(ZSTD(1)),
    views UInt64 CODEC(T64, ZSTD(1)),
    users UInt64 CODEC(T64, ZSTD(1)),
    taken_at DateTime('UTC') DEFAULT now('UTC') CODEC(Delta(4), ZSTD(1))
)
ENGINE = ${shared_engine:MergeTree}
PARTITION BY toStartOfHour(taken_at)
ORDER BY (snapshot, rank)
TTL toStartOfHour(taken_at) + toIntervalHour(3)
SETTINGS ttl_only_drop_parts = 1, merge_with_ttl_timeout = 600, index_granularity = 1024;
