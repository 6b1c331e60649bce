-- Who was erased: of user_id, all that happened up to until, a second included, is not counted by
-- anything and is on its way out of every table. Of several rows the greatest until counts, so that
-- neither order nor repetition matters. A row goes when nothing that it is about can be here any more.
CREATE TABLE IF NOT EXISTS traffic_erasures${on_cluster}
(
    user_id UInt32,
    until DateTime('UTC'),
    erased_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ${shared_engine:ReplacingMergeTree(until)}
ORDER BY user_id
TTL toStartOfDay(until) + toIntervalDay(${retention_days+2});

-- As in 0008, without what is erased: its rows may still be there.
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
        AND ((SELECT count() FROM traffic_erasures) = 0 OR toUInt32(created_at) > transform(
            user_id,
            (SELECT groupArray(user_id) FROM (SELECT user_id FROM traffic_erasures GROUP BY user_id ORDER BY user_id)),
            (SELECT groupArray(until) FROM (SELECT toUInt32(max(until)) AS until FROM traffic_erasures GROUP BY user_id ORDER BY user_id)),
            toUInt32(0)
        ))
    GROUP BY user_id, page_url
    UNION ALL
    SELECT user_id, '' AS page_url, 0 AS n
    FROM traffic_hourly PREWHERE hour = asked_hour
) AS counted
GROUP BY user_id;

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
        AND ((SELECT count() FROM traffic_erasures) = 0 OR toUInt32(created_at) > transform(
            user_id,
            (SELECT groupArray(user_id) FROM (SELECT user_id FROM traffic_erasures GROUP BY user_id ORDER BY user_id)),
            (SELECT groupArray(until) FROM (SELECT toUInt32(max(until)) AS until FROM traffic_erasures GROUP BY user_id ORDER BY user_id)),
            toUInt32(0)
        ))
    GROUP BY user_id, page_url
    UNION ALL
    SELECT user_id, '' AS page_url, 0 AS n FROM late
) AS counted
GROUP BY user_id;

-- As in 0006, without what is erased.
ALTER TABLE traffic_seal_pages_mv${on_cluster} MODIFY QUERY
WITH
    (SELECT max(hour) FROM traffic_seal_pages) AS asked_hour,
    (SELECT max(sealed_at) FROM traffic_seal_pages) AS asked_at
SELECT
    asked_hour AS hour,
    page_url,
    sum(n) AS views,
    groupBitmapMergeState(viewers) AS users,
    asked_at AS sealed_at
FROM traffic_seal_pages CROSS JOIN
(
    SELECT page_url, count() AS n, groupBitmapState(user_id) AS viewers
    FROM traffic FINAL
    PREWHERE created_at >= asked_hour AND created_at < asked_hour + 3600
        AND ((SELECT count() FROM traffic_erasures) = 0 OR toUInt32(created_at) > transform(
            user_id,
            (SELECT groupArray(user_id) FROM (SELECT user_id FROM traffic_erasures GROUP BY user_id ORDER BY user_id)),
            (SELECT groupArray(until) FROM (SELECT toUInt32(max(until)) AS until FROM traffic_erasures GROUP BY user_id ORDER BY user_id)),
            toUInt32(0)
        ))
    GROUP BY page_url
    UNION ALL
    SELECT page_url, 0 AS n, groupBitmapStateIf(toUInt32(0), 0) AS viewers
    FROM traffic_hourly_pages PREWHERE hour = asked_hour
    GROUP BY page_url
) AS counted
GROUP BY page_url;
