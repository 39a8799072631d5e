//! `GET /v1/models`.

use serde::Serialize;
use utoipa::ToSchema;

/// A list of models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelList)]
pub(crate) struct ModelList {
    /// Always `list`.
    object: &'static str,
    /// The models.
    data: Vec<Model>,
}

/// A model: a value of `model` in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Model)]
pub(crate) struct Model {
    /// `phoenix`, the name of an agent, or `provider/model`.
    #[schema(examples("git_agent"))]
    pub(crate) id: String,
    /// Always `model`.
    object: &'static str,
    /// Always 0: models of Phoenix have no date.
    created: u64,
    /// `phoenix`, or the provider of the model.
    owned_by: String,
}

impl Model {
    /// The model with this id, of `owned_by`.
    pub(crate) fn new(id: impl Into<String>, owned_by: &str) -> Self {
        Self { id: id.into(), object: "model", created: 0, owned_by: owned_by.to_owned() }
    }
}

impl From<Vec<Model>> for ModelList {
    fn from(data: Vec<Model>) -> Self {
        Self { object: "list", data }
    }
}
