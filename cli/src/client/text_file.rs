//! Files of the command line.

use std::{fs, path::Path};

use super::error::ClientError;

/// The text of a file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(path: &Path) -> Result<String, ClientError> {
    fs::read_to_string(path).map_err(|error| ClientError::File { path: path.into(), error })
}
