-- The pre-aggregate: one row is all that a user viewed in one hour, so it is replaced as a whole and
-- pages that are gone vanish with it. It holds every row of `traffic` that could be read at
-- sealed_at; of several rows the youngest counts.
CREATE TABLE IF NOT EXISTS ${table:traffic_hourly}${on_cluster}
(
    user_id UInt32,
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    total UInt64 CODEC(T64, ZSTD(1)),
    pages Array(LowCardinality(String)) CODEC(ZSTD(1)),
    views Array(UInt32) CODEC(ZSTD(1)),
    sealed_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ${engine:ReplacingMergeTree(sealed_at)}
PARTITION BY toDate(hour)
ORDER BY (user_id, hour)
TTL toStartOfDay(hour) + toIntervalDay(${retention_days+1})
SETTINGS ttl_only_drop_parts = 1, index_granularity = 1024;

-- only: cluster
CREATE TABLE IF NOT EXISTS traffic_hourly${on_cluster} AS traffic_hourly_local
ENGINE = Distributed(${cluster}, '${database}', 'traffic_hourly_local', user_id);

-- One row asks for one hour; sealed_at must have been read from the server's clock before.
CREATE TABLE IF NOT EXISTS traffic_seal_users${on_cluster}
(
    hour DateTime('UTC'),
    sealed_at DateTime64(3, 'UTC')
)
ENGINE = Null;

-- Counts the hour for every user. Users who have a row or a mark and no view any more get an empty
-- row, or else the old one would stay.
CREATE MATERIALIZED VIEW IF NOT EXISTS traffic_seal_users_mv${on_cluster}
TO traffic_hourly
AS WITH
    (SELECT max(hour) FROM traffic_seal_users) AS asked_hour,
    (SELECT max(sealed_at) FROM traffic_seal_users) AS asked_at
SELECT
    user_id,
    asked_hour AS hour,
    sum(n) AS total,
    groupArrayIf(page_url, n > 0) AS pages,
    groupArrayIf(toUInt32(n), n > 0) AS views,
    asked_at AS sealed_at
FROM traffic_seal_users CROSS JOIN
(
    SELECT user_id, page_url, count() AS n
    FROM traffic FINAL
    PREWHERE created_at >= asked_hour AND created_at < asked_hour + 3600
    GROUP BY user_id, page_url
    UNION ALL
    SELECT user_id, '' AS page_url, 0 AS n
    FROM traffic_hourly PREWHERE hour = asked_hour
    UNION ALL
    SELECT user_id, '' AS page_url, 0 AS n
    FROM traffic_marks PREWHERE scope = 'user' AND hour = asked_hour
) AS counted
GROUP BY user_id;

-- The same for those users only whose row is not younger than their newest mark by insert_limit_ms,
-- and would be now.
CREATE TABLE IF NOT EXISTS traffic_seal_late_users${on_cluster}
(
    hour DateTime('UTC'),
    sealed_at DateTime64(3, 'UTC'),
    insert_limit_ms UInt32
)
ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS traffic_seal_late_users_mv${on_cluster}
TO traffic_hourly
AS WITH
    (SELECT max(hour) FROM traffic_seal_late_users) AS asked_hour,
    (SELECT max(sealed_at) FROM traffic_seal_late_users) AS asked_at,
    (SELECT max(insert_limit_ms) FROM traffic_seal_late_users) AS limit_ms,
    late AS
    (
        SELECT user_id
        FROM
        (
            SELECT user_id, toUnixTimestamp64Milli(marked_at) AS marked, toInt64(0) AS sealed
            FROM traffic_marks PREWHERE scope = 'user' AND hour = asked_hour
            UNION ALL
            SELECT user_id, toInt64(0) AS marked, toUnixTimestamp64Milli(sealed_at) AS sealed
            FROM traffic_hourly PREWHERE hour = asked_hour
        )
        GROUP BY user_id
        HAVING max(marked) > 0 AND max(marked) + limit_ms >= max(sealed)
            AND max(marked) + limit_ms < toUnixTimestamp64Milli(asked_at)
    )
SELECT
    user_id,
    asked_hour AS hour,
    sum(n) AS total,
    groupArrayIf(page_url, n > 0) AS pages,
    groupArrayIf(toUInt32(n), n > 0) AS views,
    asked_at AS sealed_at
FROM traffic_seal_late_users CROSS JOIN
(
    SELECT user_id, page_url, count() AS n
    FROM traffic FINAL
    PREWHERE user_id GLOBAL IN (late)
        AND created_at >= asked_hour AND created_at < asked_hour + 3600
    GROUP BY user_id, page_url
    UNION ALL
    SELECT user_id, '' AS page_url, 0 AS n FROM late
) AS counted
GROUP BY user_id;
