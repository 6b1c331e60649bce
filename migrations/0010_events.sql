-- The second stream: events by site. As with page views the raw table is a set of claims: a row says
-- "the event (site_id, type, correlation_id) happened at this time". Sent again it is the same row.
-- time is in the key so that rival claims, two times for one event, stay visible until the later ones
-- get tombstones (is_deleted = 1 at version 1; see src/repository/events/rivals.rs).
-- late_at is the mark of a row that came after its hour was over, as in 0008.
-- There may be no retention; where there is one, all rows of a partition expire at one
-- instant.
CREATE TABLE IF NOT EXISTS ${table:events}${on_cluster}
(
    site_id UUID,
    type LowCardinality(String),
    time DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    correlation_id UUID,
    version UInt8 CODEC(ZSTD(1)),
    is_deleted UInt8 CODEC(ZSTD(1)),
    late_at DateTime64(3, 'UTC')
    MATERIALIZED if(
        time < toStartOfHour(now64(3, 'UTC') - toIntervalSecond(1800)),
        now64(3, 'UTC'),
        toDateTime64(0, 3, 'UTC')
    )
    CODEC(Delta(8), ZSTD(1)),
    INDEX late_at_index late_at TYPE minmax GRANULARITY 1
)
ENGINE = ${engine:ReplacingMergeTree(version, is_deleted)}
PARTITION BY toDate(time)
PRIMARY KEY (site_id, type, time)
ORDER BY (site_id, type, time, correlation_id)
${events_ttl:time+1}SETTINGS ttl_only_drop_parts = 1;

-- For reading only: a Distributed table sends no such column, and each server computes its own.
-- only: cluster
CREATE TABLE IF NOT EXISTS events${on_cluster}
(
    site_id UUID,
    type LowCardinality(String),
    time DateTime('UTC'),
    correlation_id UUID,
    version UInt8,
    is_deleted UInt8,
    late_at DateTime64(3, 'UTC') MATERIALIZED toDateTime64(0, 3, 'UTC')
)
ENGINE = Distributed(${cluster}, '${database}', 'events_local', cityHash64(site_id));

-- The pre-aggregate: the events of one type on one site in one hour. It holds every row of `events`
-- that could be read at sealed_at; of several rows the youngest counts, and a type that lost its last
-- event keeps a row of zero.
CREATE TABLE IF NOT EXISTS ${table:events_hourly}${on_cluster}
(
    site_id UUID,
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    type LowCardinality(String),
    events UInt64 CODEC(T64, ZSTD(1)),
    sealed_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ${engine:ReplacingMergeTree(sealed_at)}
PARTITION BY toDate(hour)
ORDER BY (site_id, hour, type)
${events_ttl:hour+1}SETTINGS ttl_only_drop_parts = 1, index_granularity = 1024;

-- only: cluster
CREATE TABLE IF NOT EXISTS events_hourly${on_cluster} AS events_hourly_local
ENGINE = Distributed(${cluster}, '${database}', 'events_hourly_local', cityHash64(site_id));

-- One row asks for one hour; sealed_at must have been read from the server's clock before.
CREATE TABLE IF NOT EXISTS events_seal_hours${on_cluster}
(
    hour DateTime('UTC'),
    sealed_at DateTime64(3, 'UTC')
)
ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS events_seal_hours_mv${on_cluster}
TO events_hourly
AS WITH
    (SELECT max(hour) FROM events_seal_hours) AS asked_hour,
    (SELECT max(sealed_at) FROM events_seal_hours) AS asked_at
SELECT
    site_id,
    asked_hour AS hour,
    type,
    sum(n) AS events,
    asked_at AS sealed_at
FROM events_seal_hours CROSS JOIN
(
    SELECT site_id, type, count() AS n
    FROM events FINAL
    PREWHERE time >= asked_hour AND time < asked_hour + 3600
    GROUP BY site_id, type
    UNION ALL
    SELECT site_id, type, 0 AS n
    FROM events_hourly PREWHERE hour = asked_hour
    GROUP BY site_id, type
) AS counted
GROUP BY site_id, type;

-- An hour is in here only after its counts are.
CREATE TABLE IF NOT EXISTS events_seals${on_cluster}
(
    hour DateTime('UTC'),
    sealed_at DateTime64(3, 'UTC'),
    counted_at DateTime64(3, 'UTC')
)
ENGINE = ${shared_engine:ReplacingMergeTree(sealed_at)}
PARTITION BY toStartOfMonth(hour)
ORDER BY hour ${events_ttl:hour+2};
