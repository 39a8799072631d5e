//! `GET /v1/models`: the values of `model`.

use axum::{
    Json,
    extract::{Extension, Path, State},
};
use phoenix_domain::OrchestratorError;

use crate::{
    clients::Gateway,
    problem::Failure,
    request_scope::RequestScope,
    routes::agents::agents_of,
    wire::{
        model_request::{PHOENIX, unknown_model},
        openai::model::{Model, ModelList},
    },
};

/// List models
///
/// `phoenix`, every agent, and the models of the configured providers. Other models of a provider can be used as
/// `provider/model`.
#[utoipa::path(
    get, path = "/v1/models", tag = "openai",
    responses((status = 200, body = ModelList, description = "The models"))
)]
pub(crate) async fn list_models(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
) -> Result<Json<ModelList>, Failure> {
    Ok(Json(models(&gateway, &scope).await?.into()))
}

/// Get a model
///
/// A model of the list. Its id may contain slashes and colons, encoded or not.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "Id of the model", example = "phoenix")),
    responses((status = 200, body = Model, description = "The model"))
)]
pub(crate) async fn get_model(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Model>, Failure> {
    let id = id.map(|Path(id)| id).unwrap_or_default();
    let known = models(&gateway, &scope).await?.into_iter().find(|model| model.id == id);
    known.map(Json).ok_or_else(|| unknown_model(&crate::decode_error::shorten(&id)).into())
}

async fn models(gateway: &Gateway, scope: &RequestScope) -> Result<Vec<Model>, OrchestratorError> {
    let agents = agents_of(gateway, scope).await?;
    let agents = agents.into_iter().map(|agent| Model::new(agent.agent.as_str(), PHOENIX));
    let models = gateway.models.iter().map(|id| {
        let provider = id.split_once('/').map_or(PHOENIX, |(provider, _)| provider);
        Model::new(id.clone(), provider)
    });
    Ok([Model::new(PHOENIX, PHOENIX)].into_iter().chain(agents).chain(models).collect())
}
