//! Callers whose requests are deep, huge or unusual. Requests over a limit are rejected; accepted ones are readable as sent,
//! end, and do not affect other plans.

use phoenix_testkit::http::Rest;

use crate::{
    callers::{Fact, Observation, is_retryable, poll, retry},
    random::Random,
};

/// The body of a request, and its expected result.
struct Hostile {
    body: String,
    /// Status of the rejection, if it is over a limit.
    rejected: Option<u16>,
    /// Text that every view of the plan contains.
    shown: String,
}

/// Submits a hostile plan, and reads it after its end.
pub(crate) async fn plan(rest: Rest, mut random: Random) -> Observation {
    let correlation_id = random.uuid();
    let Hostile { body, rejected, shown } = hostile(&mut random);
    let sender = rest
        .clone()
        .with_header("prefer", "respond-async")
        .with_header("idempotency-key", random.uuid())
        .with_header("x-correlation-id", correlation_id.clone());
    let plan_id = retry("a hostile plan is answered", &correlation_id, async || {
        let answer =
            sender.try_send_text("POST".parse().unwrap(), "/api/v1/plans", Some(body.clone())).await?;
        match (answer.status.as_u16(), rejected) {
            (202, None) => Some(Some(answer.str("plan_id").to_owned())),
            (status, Some(expected)) if status == expected => Some(None),
            _ => {
                assert!(is_retryable(&answer), "{}: {:.300}", answer.status, answer.text);
                None
            }
        }
    })
    .await;
    let Some(plan_id) = plan_id else { return Observation { correlation_id, facts: Vec::new() } };
    poll(&rest, &plan_id).await;
    retry("a hostile plan is read", &plan_id, async || {
        let answer = rest.try_send("GET".parse().unwrap(), &format!("/api/v1/plans/{plan_id}"), None).await?;
        let is_whole = answer.status == 200 && answer.text.contains(&shown);
        assert!(is_whole || is_retryable(&answer), "{}: {:.300}", answer.status, answer.text);
        is_whole.then_some(())
    })
    .await;
    Observation { correlation_id, facts: vec![Fact::Accepted(plan_id), Fact::NotCancelled] }
}

fn hostile(random: &mut Random) -> Hostile {
    let nested = |levels: u64| {
        let levels = usize::try_from(levels).unwrap();
        format!(r#"{{"message":"x","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
    };
    let of_input = |input: String, rejected| Hostile { body: of("quick", &input), rejected, shown: input };
    match random.below(8) {
        0 => of_input(nested(64 + random.below(1000)), Some(400)),
        1 => of_input(nested(60 + random.below(4)), None),
        2 => of_input(r#"{"message":"x","n":12345678901234567890123,"m":-0,"f":1.50}"#.into(), None),
        3 => of_input(
            r#"{"message":"x","$serde_json::private::RawValue":"[1]","a":{"$serde_json::private::Number":"1"}}"#
                .into(),
            None,
        ),
        4 => of_input(format!(r#"{{"message":"{}"}}"#, "y".repeat(900_000)), None),
        5 => of_input(format!(r#"{{"message":"{}"}}"#, "y".repeat(1_200_000)), Some(413)),
        6 => Hostile {
            body: of("deep", &format!(r#"{{"message":"{}"}}"#, 65 + random.below(400))),
            rejected: None,
            shown: r#""status":"failed""#.into(),
        },
        _ => Hostile { body: large(), rejected: None, shown: r#""status":"failed""#.into() },
    }
}

/// A plan of one task.
fn of(agent: &str, input: &str) -> String {
    format!(r#"{{"tasks":[{{"key":"a","agent":"{agent}","input":{input}}}]}}"#)
}

/// A plan whose second task has an input over the limit once its references are filled.
fn large() -> String {
    let filled = "{{tasks.a.output}}".repeat(9);
    format!(
        r#"{{"tasks":[{{"key":"a","agent":"large","input":{{"message":"1000000"}}}},{{"key":"b","agent":"quick","input":{{"message":"{filled}"}}}}]}}"#
    )
}
