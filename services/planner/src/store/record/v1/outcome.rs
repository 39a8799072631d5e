//! Stored outcomes of attempts, tasks and plans.

use std::{collections::BTreeMap, time::Duration};

use phoenix_domain::{
    FailureClass, OrchestratorError, OrchestratorErrorCode,
    action::ActionResult,
    json::{Json, Object},
    plan::AttemptOutcome,
    usage::{ModelCall, Money, Tokens},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::record::{
    unusable::Unusable,
    v1::value::{named, raw},
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutcomeV1 {
    Succeeded,
    Cancelled,
    Failed {
        class: String,
        message: String,
        stderr_tail: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        model_calls: Vec<CallV1>,
    },
}

/// A call of a model.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CallV1 {
    provider: String,
    model: String,
    input: u64,
    output: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    cached_input: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    reasoning: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost_nanos: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnswerV1 {
    output_type: String,
    data: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorV1 {
    code: String,
    message: String,
    #[serde(default)]
    details: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl From<&AttemptOutcome> for OutcomeV1 {
    fn from(outcome: &AttemptOutcome) -> Self {
        match outcome {
            AttemptOutcome::Succeeded => Self::Succeeded,
            // The reason is a member of the record.
            AttemptOutcome::Cancelled { .. } => Self::Cancelled,
            AttemptOutcome::Failed { class, message, stderr_tail, model_calls } => Self::Failed {
                class: class.as_str().into(),
                message: message.clone(),
                stderr_tail: stderr_tail.clone(),
                model_calls: model_calls.iter().map(Into::into).collect(),
            },
        }
    }
}

impl TryFrom<OutcomeV1> for AttemptOutcome {
    type Error = Unusable;

    fn try_from(outcome: OutcomeV1) -> Result<Self, Unusable> {
        Ok(match outcome {
            OutcomeV1::Succeeded => Self::Succeeded,
            OutcomeV1::Cancelled => Self::Cancelled { reason: String::new() },
            OutcomeV1::Failed { class, message, stderr_tail, model_calls } => Self::Failed {
                class: named("class", &class, FailureClass::from_name)?,
                message,
                stderr_tail,
                model_calls: model_calls.into_iter().map(Into::into).collect(),
            },
        })
    }
}

impl From<&ModelCall> for CallV1 {
    fn from(ModelCall { provider, model, tokens, cost }: &ModelCall) -> Self {
        let Tokens { input, output, cached_input, reasoning } = *tokens;
        let (provider, model) = (provider.clone(), model.clone());
        let cost_nanos = cost.map(Money::nanos);
        Self { provider, model, input, output, cached_input, reasoning, cost_nanos }
    }
}

impl From<CallV1> for ModelCall {
    fn from(stored: CallV1) -> Self {
        let CallV1 { provider, model, input, output, cached_input, reasoning, cost_nanos } = stored;
        let tokens = Tokens { input, output, cached_input, reasoning };
        Self { provider, model, tokens, cost: cost_nanos.map(Money::from_nanos) }
    }
}

impl From<&ActionResult> for AnswerV1 {
    fn from(ActionResult { output_type, data, metadata }: &ActionResult) -> Self {
        let metadata = (!metadata.is_empty()).then(|| raw(metadata));
        Self { output_type: output_type.clone(), data: raw(data), metadata }
    }
}

impl TryFrom<AnswerV1> for ActionResult {
    type Error = Unusable;

    fn try_from(AnswerV1 { output_type, data, metadata }: AnswerV1) -> Result<Self, Unusable> {
        let metadata = metadata.map(|metadata| Object::parse_stored(metadata.get())).transpose()?;
        Ok(Self {
            output_type,
            data: Json::parse_stored(data.get())?,
            metadata: metadata.unwrap_or_default(),
        })
    }
}

impl From<&OrchestratorError> for ErrorV1 {
    fn from(OrchestratorError { code, message, details, retry_after }: &OrchestratorError) -> Self {
        Self {
            code: code.as_str().into(),
            message: message.clone(),
            details: details.clone(),
            retry_after_ms: retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl TryFrom<ErrorV1> for OrchestratorError {
    type Error = Unusable;

    fn try_from(ErrorV1 { code, message, details, retry_after_ms }: ErrorV1) -> Result<Self, Unusable> {
        Ok(Self {
            code: named("code", &code, OrchestratorErrorCode::from_name)?,
            message,
            details,
            retry_after: retry_after_ms.map(Duration::from_millis),
        })
    }
}
