//! A journal with a million finished plans next to an empty one: throughput in alternating rounds, then the time of lookups.

use std::{num::NonZeroUsize, path::Path, time::Instant};

use serde::Serialize;

use super::{
    chats::Driven,
    fill::fill,
    sample::{Sample, Scale},
};
use crate::{
    failure::Result,
    rest::Rest,
    stack::{Home, Stack},
};

const CONCURRENCY: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Pages of the largest size that are skipped before later pages are requested.
const SKIPPED_PAGES: usize = 100;

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Million {
    /// Finished plans in the full journal.
    pub(crate) plans: u32,
    pub(crate) empty: Sample,
    pub(crate) full: Sample,
    /// Time of lookups in the full journal of an idle stack.
    pub(crate) listings: Vec<Listing>,
    /// The same of `GET /api/v1/stats?window=24h`.
    pub(crate) statistics: Lookup,
}

/// Time of one kind of request.
#[derive(Debug, Serialize)]
pub(crate) struct Lookup {
    pub(crate) requests: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Time of `GET /api/v1/plans?status=…`.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    pub(crate) status: &'static str,
    /// Whether the page was found by a `page_token`.
    pub(crate) later_page: bool,
    pub(crate) requests: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Million {
    /// Throughput with the full journal as a share of that with the empty one.
    pub(crate) fn share(&self) -> f64 {
        self.full.req_per_sec / self.empty.req_per_sec
    }

    /// The p99 of the slowest kind of request.
    pub(crate) fn listing_p99_ms(&self) -> f64 {
        self.listings.iter().map(|listing| listing.p99_ms).fold(0.0, f64::max)
    }
}

pub(super) async fn measure(phoenix: &Path, scale: &Scale) -> Result<Million> {
    let full_home = Home::new("")?;
    // The product makes its tables itself.
    Stack::start(phoenix, &full_home).await?.stop().await?;
    fill(&full_home.journal(), scale.journalled).await?;
    let (mut empty, mut full) = (Vec::new(), Vec::new());
    for round in 1..=scale.rounds {
        let label = format!("round {round} of {}, concurrency {CONCURRENCY}", scale.rounds);
        // Both begin anew in each round, so that the empty one is empty and the full one not better rested.
        empty.push(fresh_sample(phoenix, &Home::new("")?, scale).await?.logged(&label, "empty journal"));
        full.push(fresh_sample(phoenix, &full_home, scale).await?.logged(&label, "full journal"));
    }
    let stack = Stack::start(phoenix, &full_home).await?;
    let rest = Rest::new(&stack.url);
    let looked_up = async { Ok((list(&rest, scale.pages).await?, statistics(&rest, scale.pages).await?)) };
    let (listings, statistics) = looked_up.await.map_err(|failure| stack.blamed(failure))?;
    stack.stop().await?;
    Ok(Million {
        plans: scale.journalled,
        empty: Sample::median(&empty),
        full: Sample::median(&full),
        listings,
        statistics,
    })
}

async fn fresh_sample(phoenix: &Path, home: &Home, scale: &Scale) -> Result<Sample> {
    let mut driven = Driven::start(phoenix, home).await?;
    let sample = driven.sample(CONCURRENCY, scale).await?;
    driven.stop().await?;
    Ok(sample)
}

/// Asks for the statistics of a day, one request at a time.
async fn statistics(rest: &Rest, requests: usize) -> Result<Lookup> {
    eprintln!("asking for statistics of a day");
    let mut took_ms = Vec::new();
    for _ in 0..requests {
        let asked = Instant::now();
        rest.get("/api/v1/stats?window=24h").await?;
        took_ms.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    took_ms.sort_by(f64::total_cmp);
    Ok(Lookup { requests, p50_ms: within(&took_ms, 50), p99_ms: within(&took_ms, 99) })
}

/// Asks for the first page and for later ones of plans in each state, one request at a time.
async fn list(rest: &Rest, requests: usize) -> Result<Vec<Listing>> {
    let mut listings = Vec::new();
    for status in ["succeeded", "failed", "cancelled", "running"] {
        eprintln!("looking up plans that are {status}");
        let mut first = Vec::new();
        for _ in 0..requests {
            first.push(page(rest, status, "").await?.0);
        }
        listings.push(Listing::of(status, false, first));
        let start = pass_over(rest, status).await?;
        let Some(start) = start else { continue };
        let (mut later, mut token) = (Vec::new(), start.clone());
        for _ in 0..requests {
            let (took_ms, next) = page(rest, status, &token).await?;
            later.push(took_ms);
            token = next.unwrap_or_else(|| start.clone());
        }
        listings.push(Listing::of(status, true, later));
    }
    Ok(listings)
}

/// The token of a page that is far from the first; nothing when there is only one.
async fn pass_over(rest: &Rest, status: &str) -> Result<Option<String>> {
    let mut token = None;
    for _ in 0..SKIPPED_PAGES {
        let after = token.as_deref().unwrap_or_default();
        let path = format!("/api/v1/plans?status={status}&page_size=500&page_token={after}");
        match rest.get(&path).await?["next_page_token"].as_str() {
            Some(next) => token = Some(next.to_owned()),
            None => break,
        }
    }
    Ok(token)
}

/// How long a page took in milliseconds, and the token of the next one.
async fn page(rest: &Rest, status: &str, token: &str) -> Result<(f64, Option<String>)> {
    let path = format!("/api/v1/plans?status={status}&page_token={token}");
    let asked = Instant::now();
    let page = rest.get(&path).await?;
    let took_ms = asked.elapsed().as_secs_f64() * 1e3;
    Ok((took_ms, page["next_page_token"].as_str().map(str::to_owned)))
}

impl Listing {
    fn of(status: &'static str, later_page: bool, mut took_ms: Vec<f64>) -> Self {
        took_ms.sort_by(f64::total_cmp);
        let (p50_ms, p99_ms) = (within(&took_ms, 50), within(&took_ms, 99));
        Self { status, later_page, requests: took_ms.len(), p50_ms, p99_ms }
    }
}

/// What `percent` of the numbers, which are sorted, stay within.
fn within(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_numbers() {
        let numbers: Vec<_> = (1..=200).map(f64::from).collect();
        assert_eq!((within(&numbers, 50), within(&numbers, 99)), (100.0, 198.0));
        assert_eq!(within(&[7.0], 99), 7.0);
        assert!(within(&[], 99).is_nan());
    }
}
