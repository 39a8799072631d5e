//! The command line.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args as ArgGroup, Parser};

use crate::{
    load::{Load, Pace},
    report::Limits,
    target::{Gateway, InvalidTarget, Target},
};

const DEFAULT_DURATION: Duration = Duration::from_secs(10);
const DEFAULT_CLOSED_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
const DEFAULT_OPEN_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Default address of `/metrics`.
pub const DEFAULT_METRICS_ADDR: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9004));

/// Sends chats to a Phoenix gateway and reports their latency.
///
/// Without --rate, a closed loop: every connection sends its next chat when its last one is answered. With --rate, an
/// open loop: chats are due at that rate independent of the server, and a latency begins when its chat was due.
///
/// Exit code: 0 when the limits were kept, 1 when one was missed or no chat succeeded, 64 for wrong usage.
#[derive(Debug, Clone, Parser)]
#[command(name = "load_tester", version)]
pub struct Args {
    /// The gateway
    #[arg(long, default_value = "http://127.0.0.1:8181")]
    pub url: String,
    /// The gateway's token
    #[arg(long, env = "ORCH_API_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File with the certificates (PEM) of the authorities to trust, instead of those of this machine
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// What is sent.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What is sent, and how the result is reported.
#[derive(Debug, Clone, ArgGroup)]
pub struct RunArgs {
    /// Connections, each with one chat in flight [default: 16; 64 with --rate]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,
    /// Chats per second that are due: an open loop
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: Option<f64>,
    /// Time during which chats become due [default: 10, unless --requests is given]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration_secs: Option<Duration>,
    /// End after exactly so many chats
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Send for so long before anything is counted
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    pub warmup_secs: Duration,
    /// Message of each chat
    #[arg(long, default_value = "hello from the load tester")]
    pub message: String,
    /// The agent to ask, past the routing by words
    #[arg(long)]
    pub agent: Option<String>,
    /// What callers of /metrics must present
    #[arg(long, env = "METRICS_TOKEN", hide_env_values = true)]
    pub metrics_token: Option<String>,
    /// Time limit of a chat, from when it was due
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub timeout_secs: Duration,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Where to serve this program's own /metrics, or `off` [default: 127.0.0.1:9004, if it is free]
    #[arg(long, value_name = "HOST:PORT", env = "METRICS_ADDR")]
    pub metrics_addr: Option<MetricsAddr>,
    /// Exit with 1 when p99 is longer
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub max_p99_ms: Option<f64>,
    /// Exit with 1 when a larger share of the chats fails (0 to 1)
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub max_error_rate: Option<f64>,
}

/// `--metrics-addr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAddr {
    /// Serve none.
    Off,
    /// Serve them here.
    At(SocketAddr),
}

impl FromStr for MetricsAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| "must be like 127.0.0.1:9004, or off".into()),
        }
    }
}

impl RunArgs {
    pub(crate) fn target(&self, gateway: &Gateway<'_>) -> Result<Target, InvalidTarget> {
        Target::chats(gateway, &self.message, self.agent.as_deref())
    }

    pub(crate) fn load(&self) -> Load {
        let (pace, connections) = match self.rate {
            None => (Pace::Closed, DEFAULT_CLOSED_CONNECTIONS),
            Some(per_second) => (Pace::Open { per_second }, DEFAULT_OPEN_CONNECTIONS),
        };
        Load {
            pace,
            connections: self.concurrency.unwrap_or(connections),
            requests: self.requests,
            duration: self.duration_secs.or_else(|| self.requests.is_none().then_some(DEFAULT_DURATION)),
            timeout: self.timeout_secs,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { max_p99_ms: self.max_p99_ms, max_error_rate: self.max_error_rate }
    }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "must be a number".into())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = number(text)?;
    if number > 0.0 { Ok(number) } else { Err("must be more than 0".into()) }
}

fn share(text: &str) -> Result<f64, String> {
    let number = number(text)?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("must be between 0 and 1".into()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    const YEAR: f64 = 365.0 * 24.0 * 3600.0;
    let number = number(text)?;
    if (0.0..=YEAR).contains(&number) {
        Ok(Duration::from_secs_f64(number))
    } else {
        Err("must be seconds, 0 or more and at most a year".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_default_to_ten_seconds_only_when_none_is_given() {
        let load =
            |words: &[&str]| Args::try_parse_from([&["load_tester"], words].concat()).unwrap().run.load();
        assert_eq!(load(&[]).duration, Some(DEFAULT_DURATION));
        assert_eq!(load(&["--requests", "5"]).duration, None);
        assert_eq!(load(&["--rate", "5"]).connections, DEFAULT_OPEN_CONNECTIONS);
    }

    #[test]
    fn wrong_values_are_refused() {
        for (flag, value) in [
            ("--rate", "0"),
            ("--rate", "NaN"),
            ("--concurrency", "0"),
            ("--duration-secs", "-1"),
            ("--duration-secs", "1e300"),
            ("--max-error-rate", "1.1"),
            ("--metrics-addr", "9004"),
        ] {
            let words = ["load_tester".to_owned(), format!("{flag}={value}")];
            assert!(Args::try_parse_from(words).is_err(), "{flag} {value}");
        }
    }
}
