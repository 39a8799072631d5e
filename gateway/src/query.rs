//! Query strings. Whatever is wrong with one, the answer names the parameter.

use std::str::FromStr;

use axum::http::Uri;
use jiff::Timestamp;
use phoenix_domain::OrchestratorError;

use crate::extract::shorten;

/// The largest page of anything.
const LARGEST_PAGE: u32 = 500;

/// The parameters of one request. An empty one is as good as absent.
#[derive(Debug, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// The parameters of `uri`, all of them among `known` and none given twice.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn of(uri: &Uri, known: &[&str]) -> Result<Self, OrchestratorError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        let pairs = pairs.map_err(|_| OrchestratorError::invalid("query", "can't be read"))?.0;
        for (place, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let problem = format_args!("is not a known parameter; known are {known}");
                return Err(OrchestratorError::invalid(&shorten(name), problem));
            }
            if pairs[..place].iter().any(|(other, _)| other == name) {
                return Err(OrchestratorError::invalid(name, "is given twice"));
            }
        }
        Ok(Self(pairs))
    }

    /// The value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    /// How many things one page is to hold; 0 when the caller does not say.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn page_size(&self) -> Result<u32, OrchestratorError> {
        let Some(text) = self.get("page_size") else { return Ok(0) };
        let size = text.parse().ok().filter(|size| (1..=LARGEST_PAGE).contains(size));
        size.ok_or_else(|| {
            let problem = format_args!("must be a number from 1 to {LARGEST_PAGE}");
            OrchestratorError::invalid("page_size", problem)
        })
    }

    /// The time that `name` stands for.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn time(&self, name: &str) -> Result<Option<Timestamp>, OrchestratorError> {
        self.get(name)
            .map(|text| read_time(text).map_err(|problem| OrchestratorError::invalid(name, problem)))
            .transpose()
    }

    /// The value of `name`, read as what it stands for.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, OrchestratorError> {
        self.get(name)
            .map(|value| value.parse().map_err(|problem| OrchestratorError::invalid(name, problem)))
            .transpose()
    }
}

/// Reads a time of a query string, in which a plus sign stands for a space.
///
/// # Errors
/// How a time is written.
pub(crate) fn read_time(text: &str) -> Result<Timestamp, &'static str> {
    text.parse().map_err(|_| {
        if text.contains(' ') {
            "must be a time such as 2026-01-31T12:00:00Z; write the `+` of an offset as `%2B`"
        } else {
            "must be a time such as 2026-01-31T12:00:00Z"
        }
    })
}
