//! Lists that a server gives page by page.

use std::{sync::Arc, time::Duration};

use phoenix_domain::{
    FailureClass,
    json::{Json, Object},
};

use super::{connection::Connection, handshake::Handshake, message::object};
use crate::failure::AttemptFailure;

/// Limit of the pages of a list.
const MAX_PAGES: usize = 64;

/// A list of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    /// The method that reads it.
    pub(super) method: &'static str,
    /// The member of a page that has its part of the list.
    pub(super) member: &'static str,
}

/// How a list ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Time for which the server says that the list is valid.
    pub(super) valid_for: Option<Duration>,
    /// Whether there is more of it.
    pub(super) has_more: bool,
}

/// Reads a list, each part of which `take` gets. Ends early when that returns `false`.
///
/// # Errors
/// When the server does not answer as it must.
pub(super) async fn read(
    handshake: &Handshake,
    connection: &Arc<Connection>,
    List { method, member }: List,
    mut take: impl FnMut(&[Json]) -> bool,
) -> Result<Read, AttemptFailure> {
    let mut read = Read::default();
    let mut cursor = Json::Null;
    for _ in 0..MAX_PAGES {
        let params = match &cursor {
            Json::Null => Object::new(),
            cursor => object([("cursor", cursor.clone())]),
        };
        let page = handshake.request(connection, method, params).await?;
        let Some(items) = page[member].as_array() else {
            let problem = format!("answered `{method}` without a list of {member}");
            return Err(AttemptFailure::new(FailureClass::BackendFailure, problem));
        };
        let goes_on = take(items);
        read.valid_for = shortest(read.valid_for, page["ttlMs"].as_f64());
        let next = page["nextCursor"].clone();
        if next.is_null() || next == cursor {
            return Ok(read);
        }
        if !goes_on {
            break;
        }
        cursor = next;
    }
    Ok(Read { has_more: true, ..read })
}

/// The shorter of two times for which pages are valid. Zero milliseconds say nothing: the page was valid when it was read.
fn shortest(known: Option<Duration>, millis: Option<f64>) -> Option<Duration> {
    let time = millis.and_then(|millis| Duration::try_from_secs_f64(millis / 1000.0).ok());
    let time = time.filter(|time| !time.is_zero());
    match (known, time) {
        (Some(known), Some(time)) => Some(known.min(time)),
        (known, time) => known.or(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_time_of_the_pages_counts() {
        let millis = Duration::from_millis;
        let mut known = None;
        for (page, expected) in [
            (None, None),
            (Some(0.0), None),
            (Some(-1.0), None),
            (Some(f64::NAN), None),
            (Some(2000.0), Some(millis(2000))),
            (Some(9000.0), Some(millis(2000))),
            (Some(1e300), Some(millis(2000))),
            (None, Some(millis(2000))),
            (Some(500.0), Some(millis(500))),
        ] {
            known = shortest(known, page);
            assert_eq!(known, expected, "{page:?}");
        }
    }
}
