//! Members of requests about approvals: the terms on which a task waits, and decisions.

use phoenix_domain::{
    OrchestratorError, PlanId,
    approval::{MAX_APPROVAL_TIMEOUT_MS, OnExpiry},
    json::Object,
    limits::MAX_ACTOR_CHARS,
};
use phoenix_proto::planner::{ApprovalDecision, ApprovalTerms, DecideApprovalRequest};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, Schema,
        schema::{Object as ObjectSchema, OneOfBuilder, SchemaType, Type},
    },
};

use super::{
    budget::BudgetV1,
    schemas::{NOT_BLANK, TASK_KEY},
};
use crate::{
    delivery::IdempotencyKey,
    members::{Members, Whole, is_default, or_absent},
};

/// Word for an approval without terms.
const REQUIRED: &str = "required";

/// The member `approval` of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum ApprovalRequestV1 {
    /// `required`.
    Word(RequiredWord),
    /// The terms.
    Terms(ApprovalTermsV1),
}

/// The word `required`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RequiredWord {
    Required,
}

/// Terms on which a task waits for an approval. Unknown fields are rejected.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApprovalTermsV1 {
    /// Reason of the question, for the person who decides: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    reason: Option<String>,
    /// Role or person that is asked to decide: at most 128 characters. It is shown and not enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    approver: Option<String>,
    /// Milliseconds until the approval expires: at most a year. The agent's `approval_timeout_secs` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_536_000_000_u64)]
    timeout_ms: Option<Whole<1, MAX_APPROVAL_TIMEOUT_MS>>,
    /// Effect of the expiry on the task.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "is_default")]
    #[schema(value_type = Option<OnExpiryV1>)]
    on_expiry: OnExpiryV1,
}

/// Effect of an approval's expiry on its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub(crate) enum OnExpiryV1 {
    /// The task fails with `timeout`.
    #[default]
    Fail,
    /// The task is cancelled, as after a rejection.
    Reject,
    /// The task runs. Not for an action of which the agent requires an approval.
    Approve,
}

impl TryFrom<String> for OnExpiryV1 {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        match name.as_str() {
            "fail" => Ok(Self::Fail),
            "reject" => Ok(Self::Reject),
            "approve" => Ok(Self::Approve),
            _ => Err("must be `fail`, `reject` or `approve`"),
        }
    }
}

impl From<OnExpiry> for OnExpiryV1 {
    fn from(on_expiry: OnExpiry) -> Self {
        match on_expiry {
            OnExpiry::Fail => Self::Fail,
            OnExpiry::Reject => Self::Reject,
            OnExpiry::Approve => Self::Approve,
        }
    }
}

impl From<OnExpiryV1> for OnExpiry {
    fn from(on_expiry: OnExpiryV1) -> Self {
        match on_expiry {
            OnExpiryV1::Fail => Self::Fail,
            OnExpiryV1::Reject => Self::Reject,
            OnExpiryV1::Approve => Self::Approve,
        }
    }
}

impl<'de> Deserialize<'de> for ApprovalRequestV1 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct WordOrTerms;

        impl<'de> Visitor<'de> for WordOrTerms {
            type Value = ApprovalRequestV1;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`required` or an object with the terms of the approval")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
                if word == REQUIRED {
                    return Ok(ApprovalRequestV1::Word(RequiredWord::Required));
                }
                Err(E::custom(format_args!(
                    "{}be `required` or an object with the terms of the approval",
                    crate::decode_error::REQUIREMENT
                )))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                ApprovalTermsV1::deserialize(MapAccessDeserializer::new(map)).map(ApprovalRequestV1::Terms)
            }
        }

        from.deserialize_any(WordOrTerms)
    }
}

impl ApprovalRequestV1 {
    /// The terms of a message.
    pub(super) fn of(ApprovalTerms { reason, approver, timeout_ms, on_expiry }: ApprovalTerms) -> Self {
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        Self::Terms(ApprovalTermsV1 {
            reason: filled(reason),
            approver: filled(approver),
            timeout_ms: (timeout_ms > 0).then(|| Whole::new(timeout_ms)).flatten(),
            on_expiry: OnExpiryV1::try_from(on_expiry).unwrap_or_default(),
        })
    }

    /// The terms as a message. The planner checks their lengths.
    pub(super) fn into_terms(self) -> ApprovalTerms {
        match self {
            Self::Word(RequiredWord::Required) => ApprovalTerms::default(),
            Self::Terms(ApprovalTermsV1 { reason, approver, timeout_ms, on_expiry }) => ApprovalTerms {
                reason: reason.unwrap_or_default(),
                approver: approver.unwrap_or_default(),
                timeout_ms: timeout_ms.map_or(0, Whole::get),
                on_expiry: OnExpiry::from(on_expiry).as_str().into(),
            },
        }
    }
}

/// Schema of the member `approval`.
pub(super) fn approval_request() -> Schema {
    let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([REQUIRED]));
    let null = ObjectBuilder::new().schema_type(Type::Null);
    OneOfBuilder::new()
        .item(word)
        .item(ApprovalTermsV1::schema())
        .item(null)
        .description(Some(
            "Wait for an approval before the task runs: `required`, or the terms on which it waits. A task also waits when its \
             agent requires it.",
        ))
        .build()
        .into()
}

/// The approval of a task. Unknown fields are rejected.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApproveRequestV1 {
    /// Key of the task; may be absent when only one task of the plan waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = optional_task_key)]
    pub(crate) task: Option<String>,
    /// Name of the person or program that decides: 1 to 128 characters, not blank. Kept in the journal; not verified.
    #[schema(schema_with = actor)]
    pub(crate) actor: String,
    /// Reason, kept in the journal: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub(crate) reason: Option<String>,
    /// Hash of the input that is approved. When the task waits with another input, the response is 409.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = optional_hash)]
    pub(crate) input_hash: Option<String>,
    /// Input with which the task runs instead. It must be valid for the action.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) input: Option<Object>,
    /// New limits of the plan, of a task that waits for the budget of its plan: those that it names replace the present ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BudgetV1>)]
    pub(crate) budget: Option<Members<BudgetV1>>,
}

/// The rejection of a task. Unknown fields are rejected.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RejectRequestV1 {
    /// Key of the task; may be absent when only one task of the plan waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = optional_task_key)]
    pub(crate) task: Option<String>,
    /// Name of the person or program that decides: 1 to 128 characters, not blank. Kept in the journal; not verified.
    #[schema(schema_with = actor)]
    pub(crate) actor: String,
    /// Reason, kept in the journal and in the error of the task: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub(crate) reason: Option<String>,
    /// Hash of the input that is rejected. When the task waits with another input, the response is 409.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = optional_hash)]
    pub(crate) input_hash: Option<String>,
}

impl ApproveRequestV1 {
    /// The decision as a request to the planner.
    ///
    /// # Errors
    /// `validation_failed` that names the field.
    pub(crate) fn into_request(
        self,
        plan_id: PlanId,
        key: IdempotencyKey,
    ) -> Result<DecideApprovalRequest, OrchestratorError> {
        let Self { task, actor, reason, input_hash, input, budget } = self;
        let budget = budget.map(|Members(budget)| budget.into());
        let input_json = input.map(|input| input.to_string()).unwrap_or_default();
        let reject = RejectRequestV1 { task, actor, reason, input_hash };
        let request = reject.into_request(plan_id, key)?;
        Ok(DecideApprovalRequest {
            decision: ApprovalDecision::Approve.into(),
            input_json,
            budget,
            ..request
        })
    }
}

impl RejectRequestV1 {
    /// The decision as a request to the planner.
    ///
    /// # Errors
    /// `validation_failed` that names the field.
    pub(crate) fn into_request(
        self,
        plan_id: PlanId,
        IdempotencyKey { key, digest }: IdempotencyKey,
    ) -> Result<DecideApprovalRequest, OrchestratorError> {
        let Self { task, actor, reason, input_hash } = self;
        if task.as_ref().is_some_and(String::is_empty) {
            return Err(OrchestratorError::invalid("task", "must be the key of a task"));
        }
        let is_hash = |hash: &String| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if input_hash.as_ref().is_some_and(|hash| !is_hash(hash)) {
            let problem = "must be 64 hexadecimal digits, as in the approval";
            return Err(OrchestratorError::invalid("input_hash", problem));
        }
        Ok(DecideApprovalRequest {
            plan_id: plan_id.to_string(),
            task_key: task.unwrap_or_default(),
            decision: ApprovalDecision::Reject.into(),
            actor,
            reason: reason.unwrap_or_default(),
            input_hash: input_hash.unwrap_or_default(),
            input_json: String::new(),
            budget: None,
            idempotency_key: key,
            idempotency_digest: digest,
        })
    }
}

fn or_null() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
}

fn optional_task_key() -> ObjectSchema {
    or_null()
        .pattern(Some(TASK_KEY))
        .min_length(Some(1))
        .max_length(Some(64))
        .description(Some("Key of the task; may be absent when only one task of the plan waits."))
        .build()
}

fn actor() -> ObjectSchema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_ACTOR_CHARS))
        .description(Some(
            "Name of the person or program that decides: at most 128 characters, not blank. Kept in the journal; not verified.",
        ))
        .build()
}

fn optional_hash() -> ObjectSchema {
    or_null()
        .pattern(Some("^[0-9A-Fa-f]{64}$"))
        .description(Some(
            "Hash of the input that the decision is about. When the task waits with another input, the response is 409.",
        ))
        .build()
}
