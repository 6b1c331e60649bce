-- A row that came after its hour was over says so itself: late_at is when the server took it in, by
-- its own clock, and zero for a row in time. Nobody can send it, and row and mark are one. The half
-- hour spares the rows that come a little late; it must stay well below the time after which an hour
-- is sealed (MARK_SLACK in src/repository/seals.rs).
--
-- Rows that are there already are zero, and are written so: a column that is missing in a part would
-- be computed whenever it is read. Run again, these statements can only make a mark newer, and what
-- was counted before the migration's end is not trusted anyway.
ALTER TABLE ${table:traffic}${on_cluster}
ADD COLUMN IF NOT EXISTS late_at DateTime64(3, 'UTC')
MATERIALIZED toDateTime64(0, 3, 'UTC') CODEC(Delta(8), ZSTD(1));

ALTER TABLE ${table:traffic}${on_cluster}
ADD INDEX IF NOT EXISTS late_at_index late_at TYPE minmax GRANULARITY 1;

ALTER TABLE ${table:traffic}${on_cluster}
MATERIALIZE COLUMN late_at, MATERIALIZE INDEX late_at_index
SETTINGS mutations_sync = 2;

ALTER TABLE ${table:traffic}${on_cluster}
MODIFY COLUMN late_at DateTime64(3, 'UTC')
MATERIALIZED if(
    created_at < toStartOfHour(now64(3, 'UTC') - toIntervalSecond(1800)),
    now64(3, 'UTC'),
    toDateTime64(0, 3, 'UTC')
)
CODEC(Delta(8), ZSTD(1));

-- For reading only: a Distributed table sends no such column, and each server computes its own.
-- only: cluster
ALTER TABLE traffic${on_cluster}
ADD COLUMN IF NOT EXISTS late_at DateTime64(3, 'UTC') MATERIALIZED toDateTime64(0, 3, 'UTC');

-- As in 0005, without the marks: who has neither a view nor a row needs none.
ALTER TABLE traffic_seal_users_mv${on_cluster} MODIFY QUERY
WITH
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
) AS counted
GROUP BY user_id;

-- Counts everybody whose late rows the last seal may not hold, also those whose newest row this one
-- will not cover: a merge may drop that row and its mark, and leave an older one.
ALTER TABLE traffic_seal_late_users_mv${on_cluster} MODIFY QUERY
WITH
    (SELECT max(hour) FROM traffic_seal_late_users) AS asked_hour,
    (SELECT max(sealed_at) FROM traffic_seal_late_users) AS asked_at,
    (SELECT max(insert_limit_ms) FROM traffic_seal_late_users) AS limit_ms,
    (SELECT max(sealed_at) FROM traffic_seals WHERE hour = asked_hour) AS last_sealed_at,
    late AS
    (
        SELECT DISTINCT user_id
        FROM traffic
        PREWHERE late_at >= last_sealed_at - toIntervalMillisecond(limit_ms)
            AND created_at >= asked_hour AND created_at < asked_hour + 3600
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

DROP TABLE IF EXISTS traffic_marks_mv${on_cluster};

-- only: cluster
DROP TABLE IF EXISTS traffic_marks${on_cluster};

DROP TABLE IF EXISTS ${table:traffic_marks}${on_cluster};
