//! A look at a server, without a change.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use sqlx::{ConnectOptions, Row};

use super::{
    database::Pooler,
    open::{CONNECT_TIMEOUT, OLDEST, OpenError, advice, no_answer},
    url::{connect_options, exposure, shown},
};

/// What a look at a server found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The database, without a password.
    pub database: String,
    /// Version of the server.
    pub version: String,
    /// Time for one query.
    pub round_trip: Duration,
    /// Time by which the clock of this machine is ahead of the server's.
    pub clock_ahead: SignedDuration,
    /// Settings of the server that may lose acknowledged work.
    pub lossy_settings: Vec<&'static str>,
    /// Why others may read the connection; absent when they may not.
    pub exposure: Option<&'static str>,
}

/// Connects to the database at `url`, and asks for its state.
///
/// # Errors
/// When the URL is not valid, the server cannot be reached or is too old.
pub async fn inspect(url: &str, pooler: Pooler) -> Result<Inspection, OpenError> {
    const SETTINGS: &str = "SELECT current_setting('server_version_num'), current_setting('server_version'),
                                   current_setting('fsync'), current_setting('synchronous_commit'),
                                   (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut connect = connect_options(url)?.application_name("phoenix-doctor");
    if pooler == Pooler::Transaction {
        connect = connect.statement_cache_capacity(0).extra_float_digits(None);
    }
    let database = shown(&connect);
    let open =
        |cause: sqlx::Error| OpenError::Open { database: database.clone(), advice: advice(&cause), cause };
    let asked = async {
        let mut connection = connect.connect().await?;
        let started_at = Instant::now();
        let row = sqlx::raw_sql(SETTINGS).fetch_one(&mut connection).await?;
        Ok::<_, sqlx::Error>((row, started_at.elapsed()))
    };
    let answered = tokio::time::timeout(CONNECT_TIMEOUT, asked).await;
    let (row, round_trip) = answered.unwrap_or_else(|_| Err(no_answer())).map_err(&open)?;
    let text = |index: usize| row.try_get::<String, _>(index).map_err(&open);
    let version = text(1)?;
    if text(0)?.parse::<u32>().is_ok_and(|number| number < OLDEST) {
        return Err(OpenError::TooOld { database, version });
    }
    let settings = [("fsync", text(2)?), ("synchronous_commit", text(3)?)];
    let lossy = settings.into_iter().filter(|(_, value)| value == "off");
    let server = Timestamp::from_microsecond(row.try_get(4).map_err(&open)?).unwrap_or_default();
    Ok(Inspection {
        version,
        round_trip,
        clock_ahead: Timestamp::now().duration_since(server),
        lossy_settings: lossy.map(|(name, _)| name).collect(),
        exposure: exposure(&connect),
        database,
    })
}
