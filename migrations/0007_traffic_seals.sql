-- Which hours are sealed: everything above holds the hour as of sealed_at at least. Written only
-- after the counts are in.
CREATE TABLE IF NOT EXISTS traffic_seals${on_cluster}
(
    hour DateTime('UTC'),
    sealed_at DateTime64(3, 'UTC'),
    counted_at DateTime64(3, 'UTC')
)
ENGINE = ${shared_engine:ReplacingMergeTree(sealed_at)}
PARTITION BY toStartOfMonth(hour)
ORDER BY hour
TTL toStartOfDay(hour) + toIntervalDay(${retention_days+2});
