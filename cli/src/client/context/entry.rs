//! A named gateway.

use std::{
    io::{self, BufRead, Read},
    path::PathBuf,
};

use phoenix_domain::llm::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::client::{error::ClientError, output::plain, text_file::read};

/// Longest name of a context, in characters.
const MAX_NAME_CHARS: usize = 64;

/// Longest token that is read from standard input, in bytes.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

/// A gateway with its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Address of the gateway.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub(crate) url: Url,
    /// File with its token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<Secret>,
    /// File with the certificates of the authorities to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

fn as_text<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(url.as_str())
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Context {
    /// # Errors
    /// When the name, the address or a path is not valid, or there is no token to read.
    pub(super) fn new(
        name: &str,
        url: Url,
        token_file: Option<PathBuf>,
        token_stdin: bool,
        ca: Option<PathBuf>,
    ) -> Result<Self, ClientError> {
        let is_name = !name.is_empty()
            && name.len() <= MAX_NAME_CHARS
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_name {
            return Err(ClientError::Usage(format!(
                "`{}` is no name of a context, which has up to {MAX_NAME_CHARS} letters, digits, `-`, `_` and `.`",
                plain(name)
            )));
        }
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        let unusable = |error: io::Error| ClientError::Usage(format!("a path is not valid: {error}"));
        let context = Self {
            url,
            token_file: absolute(token_file).map_err(unusable)?,
            token: token_stdin.then(token_of_stdin).transpose()?,
            ca: absolute(ca).map_err(unusable)?,
        };
        context.validate()?;
        Ok(context)
    }

    /// # Errors
    /// When the address is not one of a gateway.
    pub(super) fn validate(&self) -> Result<(), ClientError> {
        let url = &self.url;
        let is_valid = matches!(url.scheme(), "http" | "https") && url.host().is_some();
        if !is_valid || url.password().is_some() || !url.username().is_empty() {
            return Err(ClientError::Usage(
                "the address of a gateway begins with http:// or https://, and has no user or password"
                    .into(),
            ));
        }
        Ok(())
    }

    /// The token, if there is one.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(in crate::client) fn token(&self) -> Result<Option<Secret>, ClientError> {
        match &self.token_file {
            Some(path) => Ok(Some(Secret::from(read(path)?))),
            None => Ok(self.token.clone()),
        }
    }
}

/// # Errors
/// When there is none.
fn token_of_stdin() -> Result<Secret, ClientError> {
    let mut token = String::new();
    let read = io::stdin().lock().take(MAX_TOKEN_BYTES);
    io::BufReader::new(read)
        .read_line(&mut token)
        .map_err(|error| ClientError::Usage(format!("standard input has no token: {error}")))?;
    let token = Secret::from(token);
    // A header carries it.
    let is_token = !token.is_empty() && token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token {
        return Err(ClientError::Usage("standard input has no token of visible ASCII characters".into()));
    }
    Ok(token)
}
