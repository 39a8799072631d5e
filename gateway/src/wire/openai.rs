//! Bodies of the API that clients of OpenAI's chat completions speak.

pub(crate) mod chunk;
pub(crate) mod completion;
pub(crate) mod error;
pub(crate) mod model;
pub(crate) mod request;
