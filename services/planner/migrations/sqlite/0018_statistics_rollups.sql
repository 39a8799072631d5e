-- What each planner counted in 5 and in 10 minutes, so that a day is read in 144 rows for each planner.
CREATE TABLE statistics_rollups (
    length  INTEGER NOT NULL, -- minutes of a period
    period  INTEGER NOT NULL, -- since 1970, in periods of that length
    planner TEXT NOT NULL,    -- instance
    counts  TEXT NOT NULL,    -- JSON object, the sum of those of its minutes
    PRIMARY KEY (length, period, planner)
) STRICT, WITHOUT ROWID;

INSERT INTO statistics_rollups (length, period, planner, counts)
WITH minutes AS MATERIALIZED (
    SELECT length, minute / length AS period, planner, counts
    FROM (SELECT 5 AS length UNION ALL SELECT 10), statistics
), buckets AS (
    SELECT length, period, planner, 'latency' AS name, key, sum(value) AS count
    FROM minutes, json_each(counts, '$.latency') GROUP BY 1, 2, 3, 4, 5
    UNION ALL
    SELECT length, period, planner, 'wait', key, sum(value)
    FROM minutes, json_each(counts, '$.wait') GROUP BY 1, 2, 3, 4, 5
), histograms AS (
    SELECT length, period, planner, json_object('latency', json(json_group_object(key, count) FILTER (WHERE name = 'latency')),
                                                'wait', json(json_group_object(key, count) FILTER (WHERE name = 'wait'))) AS histograms
    FROM buckets GROUP BY 1, 2, 3
), sums AS (
    SELECT length, period, planner,
           json_object('accepted', sum(counts ->> 'accepted'), 'succeeded', sum(counts ->> 'succeeded'),
                       'failed', sum(counts ->> 'failed'), 'cancelled', sum(counts ->> 'cancelled'),
                       'cost_nanos', sum(counts ->> 'cost_nanos'), 'input_tokens', sum(counts ->> 'input_tokens'),
                       'output_tokens', sum(counts ->> 'output_tokens')) AS sums
    FROM minutes GROUP BY 1, 2, 3
)
SELECT length, period, planner, json_patch(sums, coalesce(histograms, '{}'))
FROM sums LEFT JOIN histograms USING (length, period, planner);
