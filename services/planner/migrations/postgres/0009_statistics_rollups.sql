-- What each planner counted in 5 and in 10 minutes, so that a day is read in 144 rows for each planner.
CREATE TABLE phoenix_planner.statistics_rollups (
    length  bigint NOT NULL, -- minutes of a period
    period  bigint NOT NULL, -- since 1970, in periods of that length
    planner text NOT NULL,   -- instance
    counts  text NOT NULL,   -- JSON object, the sum of those of its minutes
    PRIMARY KEY (length, period, planner)
) WITH (fillfactor = 50);

INSERT INTO phoenix_planner.statistics_rollups (length, period, planner, counts)
WITH minutes AS MATERIALIZED (
    SELECT length, minute / length AS period, planner, counts::jsonb AS counts
    FROM (VALUES (5::bigint), (10)) AS lengths (length), phoenix_planner.statistics
), buckets AS (
    SELECT length, period, planner, name, key, sum(value::bigint) AS count
    FROM minutes, (VALUES ('latency'), ('wait')) AS names (name), jsonb_each_text(counts -> name)
    GROUP BY 1, 2, 3, 4, 5
), histograms AS (
    SELECT length, period, planner,
           jsonb_build_object('latency', coalesce(jsonb_object_agg(key, count) FILTER (WHERE name = 'latency'), '{}'),
                              'wait', coalesce(jsonb_object_agg(key, count) FILTER (WHERE name = 'wait'), '{}')) AS histograms
    FROM buckets GROUP BY 1, 2, 3
), sums AS (
    SELECT length, period, planner,
           jsonb_build_object('accepted', sum((counts ->> 'accepted')::bigint), 'succeeded', sum((counts ->> 'succeeded')::bigint),
                              'failed', sum((counts ->> 'failed')::bigint), 'cancelled', sum((counts ->> 'cancelled')::bigint),
                              'cost_nanos', sum((counts ->> 'cost_nanos')::bigint),
                              'input_tokens', sum((counts ->> 'input_tokens')::bigint),
                              'output_tokens', sum((counts ->> 'output_tokens')::bigint)) AS sums
    FROM minutes GROUP BY 1, 2, 3
)
SELECT length, period, planner, (sums || coalesce(histograms, '{}'))::text
FROM sums LEFT JOIN histograms USING (length, period, planner);
