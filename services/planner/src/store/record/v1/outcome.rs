//! Stored outcomes of attempts, tasks and plans.

use std::{collections::BTreeMap, time::Duration};

use phoenix_domain::{
    FailureClass, OrchestratorError, OrchestratorErrorCode,
    action::ActionResult,
    json::{Json, Object},
    plan::AttemptOutcome,
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
    Failed { class: String, message: String, stderr_tail: String },
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
            AttemptOutcome::Cancelled => Self::Cancelled,
            AttemptOutcome::Failed { class, message, stderr_tail } => Self::Failed {
                class: class.as_str().into(),
                message: message.clone(),
                stderr_tail: stderr_tail.clone(),
            },
        }
    }
}

impl TryFrom<OutcomeV1> for AttemptOutcome {
    type Error = Unusable;

    fn try_from(outcome: OutcomeV1) -> Result<Self, Unusable> {
        Ok(match outcome {
            OutcomeV1::Succeeded => Self::Succeeded,
            OutcomeV1::Cancelled => Self::Cancelled,
            OutcomeV1::Failed { class, message, stderr_tail } => {
                Self::Failed { class: named("class", &class, FailureClass::from_name)?, message, stderr_tail }
            }
        })
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
