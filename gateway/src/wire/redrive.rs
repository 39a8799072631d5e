//! Body of a request to redrive a plan.

use std::collections::BTreeMap;

use phoenix_domain::json::Object;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schemas;
use crate::members::or_absent;

/// Changes of a redrive. Unknown fields are rejected.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedriveRequestV1 {
    /// New inputs by key of the task. Each replaces the whole input. Only tasks that run again take one; tasks that have
    /// succeeded are kept as they are.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = schemas::inputs)]
    pub(crate) input: BTreeMap<String, Option<Object>>,
    /// Reason of the redrive, kept in the journal: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub(crate) reason: Option<String>,
}
