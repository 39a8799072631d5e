//! Typed access to the input of a request. Every error is a 400 that names the field.

use phoenix_domain::{
    action::ActionRequest,
    json::{Json, Object},
};

use crate::protocol::{ActionError, shortened};

/// Input of a request.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a>(&'a Object);

impl<'a> Payload<'a> {
    /// Input of `request`.
    #[must_use]
    pub const fn of(request: &'a ActionRequest) -> Self {
        Self(&request.payload)
    }

    /// Rejects fields other than `known`, so that a misspelt option is an error instead of the default.
    ///
    /// # Errors
    /// For an unknown field.
    pub fn only(self, known: &[&str]) -> Result<Self, ActionError> {
        match self.0.keys().find(|field| !known.contains(&field.as_str())) {
            Some(field) => {
                let field = shortened(field, 64);
                Err(ActionError::invalid(format!(
                    "unknown field `{field}`; known fields: {}",
                    known.join(", ")
                )))
            }
            None => Ok(self),
        }
    }

    /// A required text.
    ///
    /// # Errors
    /// When it is missing, not a string, or contains a NUL character.
    pub fn text(self, field: &str) -> Result<&'a str, ActionError> {
        self.optional_text(field)?.ok_or_else(|| wrong(field, "is missing"))
    }

    /// An optional text; null counts as absent.
    ///
    /// # Errors
    /// When it is not a string, or contains a NUL character.
    pub fn optional_text(self, field: &str) -> Result<Option<&'a str>, ActionError> {
        self.present(field).map(|value| text_of(field, value)).transpose()
    }

    /// A required list of texts.
    ///
    /// # Errors
    /// When it is missing, empty, or not a list of strings.
    pub fn texts(self, field: &str) -> Result<Vec<&'a str>, ActionError> {
        match self.present(field) {
            None => Err(wrong(field, "is missing")),
            Some(Json::Array(items)) if items.is_empty() => Err(wrong(field, "must not be empty")),
            Some(Json::Array(items)) => items.iter().map(|item| text_of(field, item)).collect(),
            Some(_) => Err(wrong(field, "must be a list of strings")),
        }
    }

    /// A boolean; absent means false.
    ///
    /// # Errors
    /// When it is not a boolean.
    pub fn flag(self, field: &str) -> Result<bool, ActionError> {
        match self.present(field) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| wrong(field, "must be true or false")),
        }
    }

    /// An integer from 1 to `max`, which may be written as `5.0`; absent means `default`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn count(self, field: &str, default: usize, max: usize) -> Result<usize, ActionError> {
        let Some(value) = self.present(field) else { return Ok(default) };
        let whole = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0);
        // Larger values saturate. They exceed every limit.
        whole
            .map(|number| number as usize)
            .filter(|count| (1..=max).contains(count))
            .ok_or_else(|| wrong(field, &format!("must be an integer from 1 to {max}")))
    }

    fn present(self, field: &str) -> Option<&'a Json> {
        self.0.get(field).filter(|value| !value.is_null())
    }
}

/// Rejects NUL, which would end a path or an argument early.
fn text_of<'a>(field: &str, value: &'a Json) -> Result<&'a str, ActionError> {
    let text = value.as_str().ok_or_else(|| wrong(field, "must be a string"))?;
    if text.contains('\0') {
        return Err(wrong(field, "must not contain a NUL character"));
    }
    Ok(text)
}

fn wrong(field: &str, problem: &str) -> ActionError {
    ActionError::invalid(format!("`payload.{field}` {problem}"))
}
