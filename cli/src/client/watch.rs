//! The events of a plan, until it ends.

use std::time::Duration;

use phoenix_domain::{OrchestratorErrorCode, json::Json};
use reqwest::Method;

use super::{
    error::ClientError,
    gateway::Gateway,
    output::{indented, line, parsed, plain, text},
};

/// How often a stream that broke is resumed without an event in between.
const MAX_RESUMES: u32 = 30;

/// Time before a stream is resumed.
const PAUSE: Duration = Duration::from_secs(1);

/// Prints the events of a plan until it ends, and its output. A stream that breaks is resumed.
///
/// # Errors
/// When the plan does not exist or did not succeed, or the gateway stays away.
pub(super) async fn until_end(gateway: &Gateway, plan_id: &str, is_json: bool) -> Result<(), ClientError> {
    let path = format!("/api/v1/plans/{plan_id}");
    let mut last = String::new();
    let mut resumes = 0;
    loop {
        match follow(gateway, &format!("{path}/events"), &mut last, &mut resumes, is_json).await {
            Ok(true) => break,
            Ok(false) if resumes < MAX_RESUMES => {}
            Err(error) if error.may_pass() && !last.is_empty() && resumes < MAX_RESUMES => {}
            Ok(false) => {
                let problem = "the events end before the plan does".into();
                return Err(ClientError::Broken { url: gateway.url().into(), problem });
            }
            Err(error) => return Err(error),
        }
        resumes += 1;
        tokio::time::sleep(PAUSE).await;
    }
    let plan = gateway.json(gateway.request(Method::GET, &path)).await?;
    if is_json {
        line(plan.get())?;
    }
    let plan = parsed(&plan);
    if plan["status"] == "succeeded" {
        return match &plan["output"] {
            _ if is_json => Ok(()),
            Json::String(output) => line(indented(output, "")),
            output => line(output.to_string()),
        };
    }
    let (status, error) = (text(&plan, "status"), &plan["error"]);
    let (code, reason) = (text(error, "code"), plain(text(error, "message")));
    Err(ClientError::Failed {
        code: OrchestratorErrorCode::from_name(code),
        message: format!("plan {plan_id} {status}: {code}: {reason}"),
    })
}

/// Prints events after the one with the id `last`. Returns whether the plan has ended.
async fn follow(
    gateway: &Gateway,
    path: &str,
    last: &mut String,
    resumes: &mut u32,
    is_json: bool,
) -> Result<bool, ClientError> {
    let mut request = gateway.request(Method::GET, path);
    if !last.is_empty() {
        request = request.header("last-event-id", last.as_str());
    }
    let mut events = gateway.events(request).await?;
    while let Some(event) = events.next().await? {
        let data = event.data.unwrap_or_default();
        if let Some(id) = event.id {
            *last = id;
            *resumes = 0;
        }
        if is_json {
            line(&data)?;
        } else if let Some(text) = described(&Json::parse_stored(&data).unwrap_or_default()) {
            line(text)?;
        }
        if event.event.as_deref() == Some("plan_ended") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An event on one line; `None` for parts of an answer, which the plan's output repeats.
fn described(event: &Json) -> Option<String> {
    let kind = text(event, "kind");
    if matches!(kind, "output" | "output_reset" | "") {
        return None;
    }
    let facts = event["data"].as_object().into_iter().flatten();
    let facts = facts.filter(|(_, value)| !value.is_null() && **value != false);
    let facts = facts.map(|(name, value)| match value {
        Json::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    let time = text(event, "at").get(11..23).unwrap_or("            ");
    let words = [time.to_owned(), format!("{kind:<18}"), text(event, "task_key").to_owned()];
    let words: Vec<_> = words.into_iter().chain(facts).filter(|word| !word.is_empty()).collect();
    Some(plain(&words.join(" ")))
}
