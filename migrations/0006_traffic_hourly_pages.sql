-- The same hours for the whole site: views of each page, and who viewed it, as a bitmap that unites
-- exactly over hours. A page that lost its last view keeps a row of zero.
CREATE TABLE IF NOT EXISTS ${table:traffic_hourly_pages}${on_cluster}
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    page_url LowCardinality(String) CODEC(ZSTD(1)),
    views UInt64 CODEC(T64, ZSTD(1)),
    users AggregateFunction(groupBitmap, UInt32) CODEC(ZSTD(1)),
    sealed_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ${engine:ReplacingMergeTree(sealed_at)}
PARTITION BY toDate(hour)
ORDER BY (hour, page_url)
TTL toStartOfDay(hour) + toIntervalDay(${retention_days+1})
SETTINGS ttl_only_drop_parts = 1, index_granularity = 1024;

-- only: cluster
CREATE TABLE IF NOT EXISTS traffic_hourly_pages${on_cluster} AS traffic_hourly_pages_local
ENGINE = Distributed(${cluster}, '${database}', 'traffic_hourly_pages_local', cityHash64(page_url));

CREATE TABLE IF NOT EXISTS traffic_seal_pages${on_cluster}
(
    hour DateTime('UTC'),
    sealed_at DateTime64(3, 'UTC')
)
ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS traffic_seal_pages_mv${on_cluster}
TO traffic_hourly_pages
AS WITH
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
    GROUP BY page_url
    UNION ALL
    SELECT page_url, 0 AS n, groupBitmapStateIf(toUInt32(0), 0) AS viewers
    FROM traffic_hourly_pages PREWHERE hour = asked_hour
    GROUP BY page_url
) AS counted
GROUP BY page_url;
