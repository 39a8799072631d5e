//! Bodies of statistics.

use jiff::Timestamp;
use phoenix_domain::{json::Json, usage::Money};
use phoenix_proto::{
    InvalidField,
    planner::{GetStatisticsResponse, Statistics, get_statistics_response::Bucket, statistics::Percentiles},
    required, required_timestamp,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{schemas::states, window::WINDOWS};

/// What happened in a window that ends now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatisticsV1 {
    /// Length of the window.
    #[schema(schema_with = windows)]
    window: &'static str,
    /// Length of a bucket in seconds.
    #[schema(minimum = 60)]
    bucket_secs: u32,
    /// Plans that have not ended, whenever they were accepted.
    unfinished: UnfinishedV1,
    /// The whole window.
    total: CountsV1,
    /// The window in equal parts, oldest first. The last one is not over. Empty with `buckets=false`.
    buckets: Vec<BucketV1>,
}

/// Numbers of plans that have not ended.
#[derive(Debug, Serialize, ToSchema)]
struct UnfinishedV1 {
    /// Plans that are pending.
    pending: u64,
    /// Plans that are running.
    running: u64,
}

/// What happened in a part of the window.
#[derive(Debug, Serialize, ToSchema)]
struct BucketV1 {
    /// When it begins.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    #[serde(flatten)]
    counts: CountsV1,
}

/// What happened in some time.
#[derive(Debug, Serialize, ToSchema)]
struct CountsV1 {
    /// Plans that were accepted.
    accepted: u64,
    /// Plans that succeeded.
    succeeded: u64,
    /// Plans that failed.
    failed: u64,
    /// Plans that were cancelled.
    cancelled: u64,
    /// Time from acceptance to end, of the plans that ended; null when there are none.
    #[schema(required)]
    latency_ms: Option<PercentilesV1>,
    /// Time from acceptance to the first attempt, of the plans whose first task started; null when there are none.
    #[schema(required)]
    wait_ms: Option<PercentilesV1>,
    /// Cost of calls of language models in US dollars, as far as it is known.
    #[schema(value_type = f64)]
    cost_usd: Json,
    /// Tokens of inputs of language models.
    input_tokens: u64,
    /// Tokens of outputs of language models.
    output_tokens: u64,
}

/// Durations that a share of all does not exceed, in milliseconds, within 5 %.
#[derive(Debug, Serialize, ToSchema)]
struct PercentilesV1 {
    /// Of 50 %.
    p50: f64,
    /// Of 95 %.
    p95: f64,
    /// Of 99 %.
    p99: f64,
}

impl StatisticsV1 {
    /// The statistics of `window`.
    pub(crate) fn of(window: &'static str, wire: GetStatisticsResponse) -> Result<Self, InvalidField> {
        let GetStatisticsResponse { total, buckets, bucket_secs, pending, running } = wire;
        let bucket = |Bucket { at, statistics }: Bucket| {
            let (at, counts) = (required_timestamp("at", at)?, required("statistics", statistics)?.into());
            Ok(BucketV1 { at, counts })
        };
        let total = required("total", total)?.into();
        let buckets = buckets.into_iter().map(bucket).collect::<Result<_, InvalidField>>()?;
        let unfinished = UnfinishedV1 { pending, running };
        Ok(Self { window, bucket_secs, unfinished, total, buckets })
    }
}

impl From<Statistics> for CountsV1 {
    fn from(wire: Statistics) -> Self {
        let Statistics {
            accepted,
            succeeded,
            failed,
            cancelled,
            latency,
            wait,
            cost_nanos,
            input_tokens,
            output_tokens,
        } = wire;
        Self {
            accepted,
            succeeded,
            failed,
            cancelled,
            latency_ms: latency.map(Into::into),
            wait_ms: wait.map(Into::into),
            cost_usd: Money::from_nanos(cost_nanos).to_json(),
            input_tokens,
            output_tokens,
        }
    }
}

impl From<Percentiles> for PercentilesV1 {
    fn from(Percentiles { p50, p95, p99 }: Percentiles) -> Self {
        // A tenth of a millisecond is more than enough.
        let [p50, p95, p99] = [p50, p95, p99].map(|millis| (millis * 10.0).round() / 10.0);
        Self { p50, p95, p99 }
    }
}

fn windows() -> utoipa::openapi::schema::Object {
    states("Length of the window.", WINDOWS.map(|(name, _)| name).into_iter())
}
