//! Typed access to a request's input. Every error is a 400 that names the field.

use phoenix_domain::{
    action::ActionRequest,
    json::{Json, Object},
};

use crate::protocol::{ActionError, shortened};

/// The input of a request.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a>(&'a Object);

impl<'a> Payload<'a> {
    /// The input of `request`.
    #[must_use]
    pub const fn of(request: &'a ActionRequest) -> Self {
        Self(&request.payload)
    }

    /// Refuses fields beside `known`, so that a misspelt option is an error and not the default.
    ///
    /// # Errors
    /// There is such a field.
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

    /// A text that must be there.
    ///
    /// # Errors
    /// It is missing, not a string, or holds a NUL character.
    pub fn text(self, field: &str) -> Result<&'a str, ActionError> {
        self.optional_text(field)?.ok_or_else(|| wrong(field, "is missing"))
    }

    /// A text that may be absent or null.
    ///
    /// # Errors
    /// It is not a string, or holds a NUL character.
    pub fn optional_text(self, field: &str) -> Result<Option<&'a str>, ActionError> {
        self.present(field).map(|value| text_of(field, value)).transpose()
    }

    /// A list of texts that must be there and not be empty.
    ///
    /// # Errors
    /// It is missing, empty, or not a list of strings.
    pub fn texts(self, field: &str) -> Result<Vec<&'a str>, ActionError> {
        match self.present(field) {
            None => Err(wrong(field, "is missing")),
            Some(Json::Array(items)) if items.is_empty() => Err(wrong(field, "must not be empty")),
            Some(Json::Array(items)) => items.iter().map(|item| text_of(field, item)).collect(),
            Some(_) => Err(wrong(field, "must be a list of strings")),
        }
    }

    /// A yes or no; absent means no.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(self, field: &str) -> Result<bool, ActionError> {
        match self.present(field) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| wrong(field, "must be true or false")),
        }
    }

    /// A whole number from 1 to `most`, which may be written as `5.0`; absent means `default`.
    ///
    /// # Errors
    /// It is none.
    pub fn count(self, field: &str, default: usize, most: usize) -> Result<usize, ActionError> {
        let Some(value) = self.present(field) else { return Ok(default) };
        let whole = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0);
        // Beyond the largest exact whole number of a float, and so beyond any limit, it saturates.
        whole
            .map(|number| number as usize)
            .filter(|count| (1..=most).contains(count))
            .ok_or_else(|| wrong(field, &format!("must be a whole number from 1 to {most}")))
    }

    fn present(self, field: &str) -> Option<&'a Json> {
        self.0.get(field).filter(|value| !value.is_null())
    }
}

/// NUL is refused everywhere: it ends a path or an argument early wherever one is made of the text.
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
