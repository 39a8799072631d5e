//! The conversation in a chat's payload: `message`, and optionally `messages`, `model` and `options` in OpenAI's shape.

use phoenix_domain::{
    action::ActionRequest,
    json::{Json, Object},
    object,
};

use crate::{
    payload::Payload,
    protocol::{ActionError, shortened},
};

/// Roles of messages.
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];

/// Members of `options` that the agent sets itself.
const OWN_OPTIONS: &[&str] =
    &["model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"];

/// Option that decides, instead of the setting of this name, whether an answer that broke off may begin anew with the next model.
const FALLBACK_AFTER_OUTPUT: &str = "fallback_after_output";

/// Names of a model that leave the choice to the settings.
const UNNAMED: &[&str] = &["", "auto", "phoenix"];

/// What a chat asks for.
#[derive(Debug)]
pub(super) struct Conversation {
    /// Messages in OpenAI's shape; at least one.
    pub(super) messages: Vec<Json>,
    /// Model, or provider and model, unless the settings choose.
    pub(super) model: Option<String>,
    /// Options to pass on.
    pub(super) options: Object,
    /// Whether an answer that broke off may begin anew with the next model, if the chat says so.
    pub(super) fallback_after_output: Option<bool>,
    /// Limit of tokens that the chat asks for.
    max_tokens: Option<u64>,
    /// Context of the request, for a chat of one message. The messages of a longer one contain it.
    pub(super) context: String,
}

impl Conversation {
    /// The conversation of `request`.
    ///
    /// # Errors
    /// 400 with the field, for a value that is not in OpenAI's shape.
    pub(super) fn of(request: &ActionRequest) -> Result<Self, ActionError> {
        let message = Payload::of(request).text("message")?;
        let value = |name: &str| request.payload.get(name).filter(|value| !value.is_null());
        let (messages, context) = match value("messages") {
            None => (vec![object! {"role": "user", "content": message}.into()], request.context.clone()),
            Some(Json::Array(messages)) if !messages.is_empty() => {
                messages.iter().enumerate().try_for_each(|(index, message)| check(index, message))?;
                (messages.clone(), String::new())
            }
            Some(_) => {
                return Err(ActionError::invalid(
                    "`payload.messages` must be a list with at least one message",
                ));
            }
        };
        let model = Payload::of(request).optional_text("model")?.map(str::trim);
        let model = model.filter(|model| !UNNAMED.contains(model) && *model != request.tool.as_str());
        let mut options = match value("options") {
            None => Object::new(),
            Some(Json::Object(options)) => options.clone(),
            Some(_) => return Err(ActionError::invalid("`payload.options` must be an object")),
        };
        let fallback_after_output = match options.shift_remove(FALLBACK_AFTER_OUTPUT) {
            None | Some(Json::Null) => None,
            Some(Json::Bool(is_allowed)) => Some(is_allowed),
            Some(_) => {
                let problem = format!("`payload.options.{FALLBACK_AFTER_OUTPUT}` must be true or false");
                return Err(ActionError::invalid(problem));
            }
        };
        let limits = ["max_completion_tokens", "max_tokens"];
        let limit = limits.into_iter().find_map(|name| options.get(name)?.as_u64());
        options.retain(|name, value| !OWN_OPTIONS.contains(&name.as_str()) && !value.is_null());
        let model = model.map(str::to_owned);
        Ok(Self { messages, model, options, fallback_after_output, max_tokens: limit, context })
    }

    /// The limit of tokens: that of the chat, at most that of the settings.
    pub(super) fn max_tokens(&self, configured: u32) -> u32 {
        let wanted = self.max_tokens.and_then(|limit| u32::try_from(limit).ok()).filter(|limit| *limit > 0);
        wanted.map_or(configured, |limit| limit.min(configured))
    }
}

fn check(index: usize, message: &Json) -> Result<(), ActionError> {
    let wrong = |field: &str, problem: String| {
        Err(ActionError::invalid(format!("`payload.messages[{index}]{field}` {problem}")))
    };
    if !message.is_object() {
        return wrong("", "must be an object".into());
    }
    match message["role"].as_str() {
        Some(role) if ROLES.contains(&role) => {}
        Some(role) => {
            let (role, roles) = (shortened(role, 64), ROLES.join("`, `"));
            return wrong(".role", format!("is `{role}`; the roles are `{roles}`"));
        }
        None => return wrong(".role", "must be a string".into()),
    }
    match &message["content"] {
        Json::Null | Json::String(_) => Ok(()),
        Json::Array(parts) => match parts.iter().position(|part| !part.is_object()) {
            Some(part) => wrong(&format!(".content[{part}]"), "must be an object".into()),
            None => Ok(()),
        },
        _ => wrong(".content", "must be a string or a list of parts".into()),
    }
}
