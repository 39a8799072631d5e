//! Query strings. Errors name the parameter.

use std::str::FromStr;

use axum::http::Uri;
use jiff::Timestamp;
use phoenix_domain::OrchestratorError;

use crate::decode_error::shorten;

/// The largest page of any listing.
const MAX_PAGE_SIZE: u32 = 500;

/// The parameters of one request. An empty parameter counts as absent.
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
        for (index, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let problem = format_args!("is not a known parameter; known are {known}");
                return Err(OrchestratorError::invalid(&shorten(name), problem));
            }
            if pairs[..index].iter().any(|(other, _)| other == name) {
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

    /// The parameter `page_size`; 0 when it is absent.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn page_size(&self) -> Result<u32, OrchestratorError> {
        let Some(text) = self.get("page_size") else { return Ok(0) };
        let size = text.parse().ok().filter(|size| (1..=MAX_PAGE_SIZE).contains(size));
        size.ok_or_else(|| {
            let problem = format_args!("must be a number from 1 to {MAX_PAGE_SIZE}");
            OrchestratorError::invalid("page_size", problem)
        })
    }

    /// The value of `name`, parsed as a time.
    ///
    /// # Errors
    /// `validation_failed` that names the parameter.
    pub(crate) fn time(&self, name: &str) -> Result<Option<Timestamp>, OrchestratorError> {
        self.get(name)
            .map(|text| parse_time(text).map_err(|problem| OrchestratorError::invalid(name, problem)))
            .transpose()
    }

    /// The value of `name`, parsed.
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

/// Parses a time of a query string, in which a plus sign stands for a space.
///
/// # Errors
/// The format of a time.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, &'static str> {
    text.parse().map_err(|_| {
        if text.contains(' ') {
            "must be a time such as 2026-01-31T12:00:00Z; write the `+` of an offset as `%2B`"
        } else {
            "must be a time such as 2026-01-31T12:00:00Z"
        }
    })
}
