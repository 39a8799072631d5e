//! Statistics of the last minutes or hours.

use std::collections::BTreeMap;

use jiff::Timestamp;
use phoenix_domain::OrchestratorError;
use phoenix_proto::{
    InvalidField,
    planner::{
        GetStatisticsRequest, GetStatisticsResponse, Statistics, get_statistics_response::Bucket,
        statistics::Percentiles,
    },
    to_timestamp,
};

use crate::{
    journal::statistics::minute_of,
    service::Planner,
    store::{
        query::OpenPlans,
        statistics::{Counts, Histogram, LENGTHS, Period},
    },
};

/// Windows in seconds.
const WINDOW: std::ops::RangeInclusive<u32> = 60..=86_400;

/// Most buckets of a response; a bucket is a period for which counts are stored.
const MAX_BUCKETS: i64 = 144;

/// The statistics of a window that ends at `at`.
pub(super) async fn get(
    planner: &Planner,
    request: GetStatisticsRequest,
    at: Timestamp,
) -> Result<GetStatisticsResponse, OrchestratorError> {
    let GetStatisticsRequest { window_secs } = request;
    if !WINDOW.contains(&window_secs) {
        let problem = format!("must be from {} to {}", WINDOW.start(), WINDOW.end());
        return Err(InvalidField::new("window_secs", problem).into());
    }
    let minutes = i64::from(window_secs.div_ceil(60));
    let length = LENGTHS.into_iter().find(|length| minutes / length <= MAX_BUCKETS).unwrap_or(LENGTHS[2]);
    // Buckets begin at full minutes of their length, so that a repeated request has the same ones.
    let last = Period::of(length, minute_of(at)).number;
    let first = last - (minutes / length).max(1) + 1;
    let counted = planner.journal().statistics(Period { length, number: first }).await.map_err(|error| {
        tracing::error!(%error, "the statistics cannot be read");
        OrchestratorError::from(error)
    })?;
    let OpenPlans { pending, running } = planner.journal().open_plans().await?;
    let mut buckets: BTreeMap<i64, Counts> =
        (first..=last).map(|bucket| (bucket, Counts::default())).collect();
    let mut total = Counts::default();
    for (number, counts) in &counted {
        // A planner whose clock is ahead may have counted minutes to come.
        if let Some(bucket) = buckets.get_mut(number) {
            *bucket += counts;
            total += counts;
        }
    }
    let bucket = |(bucket, counts): (i64, Counts)| Bucket {
        at: Timestamp::from_second(bucket * length * 60).ok().map(to_timestamp),
        statistics: Some(encode(&counts)),
    };
    Ok(GetStatisticsResponse {
        total: Some(encode(&total)),
        buckets: buckets.into_iter().map(bucket).collect(),
        bucket_secs: u32::try_from(length * 60).unwrap_or(u32::MAX),
        pending,
        running,
    })
}

fn encode(counts: &Counts) -> Statistics {
    let Counts {
        accepted,
        succeeded,
        failed,
        cancelled,
        latency,
        wait,
        cost_nanos,
        input_tokens,
        output_tokens,
    } = counts;
    Statistics {
        accepted: *accepted,
        succeeded: *succeeded,
        failed: *failed,
        cancelled: *cancelled,
        latency: percentiles(latency),
        wait: percentiles(wait),
        cost_nanos: *cost_nanos,
        input_tokens: *input_tokens,
        output_tokens: *output_tokens,
    }
}

fn percentiles(durations: &Histogram) -> Option<Percentiles> {
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| durations.percentile(share));
    Some(Percentiles { p50: p50?, p95: p95?, p99: p99? })
}
