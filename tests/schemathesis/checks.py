"""Rules of this API that schemathesis cannot derive from its schema.

JSON Schema says how a request is written, not whether its parts fit together. A request that keeps to the schema may be
refused for these reasons, and for no other.
"""

import json
import re

import schemathesis

# 400: the parts of a plan do not fit together, an agent does not take what it was asked, or a text has more bytes than the
# characters that a schema counts.
UNFIT = [
    r"names `.*`, which is no task$",
    r"is used by two tasks$",
    r"is no task of the plan$",
    r"has succeeded and is kept as it is$",
    r"is \d+ bytes long; at most \d+ are allowed$",
    r"^agent `.*` answered: ",
    r"^`tasks\[\d+\]\.input",
    r"^`tasks\[\d+\]\.depends_on` ",
    r"^`input\.",
    r"must be the message as text$",
    r"^`(message|context)` and `messages` exclude each other",
    r"^`message` is missing; send it or `messages`$",
    r"^`strategy` `model` excludes ",
    r"^`(tasks\[\d+\]\.)?(not_before|delay_ms)` ",
    r"^`messages\[\d+\]\.content` (is missing|must not be blank)$",
    r"^`messages\[\d+\]\.content\[\d+\]\.(text|image_url\.url)` must be a string$",
    r"^`(messages\[\d+\]\.content|system)\[\d+\]\.",
    r"^`input\[\d+\]\.",
    r"^`(previous_response_id|conversation|prompt|mcp_servers|container)` is not supported",
    r"^`X-Phoenix-Budget(\..*)?` ",
    r"^`starting_after` needs `stream=true`$",
    r"^`stream` is not available: the response was not created with",
    r"^`messages\[\d+\]\.tool_call_id` (is missing|must be a string)$",
    r"^`messages\[\d+\]\.tool_calls(\[\d+\])?` must be an ",
]

# 422: the request is well-formed, and no plan can be made of it.
UNPLANNABLE = [
    r"^unknown agent `",
    r"^agent `.*` has no action `",
    r"^agent `.*` answered: ",
    r"wait for each other",
    r"has no language model to plan with",
    r"^the language model was asked ",
    r"^the idempotency key was used before, for a different request; send a new key$",
]


def words(response):
    """The sentence of a refusal, in any of the three shapes."""
    body = json.loads(response.content)
    if "detail" in body:
        return body["detail"]
    return body["error"]["message"] if "error" in body else body["output"]


@schemathesis.check
def refused_only_for_what_no_schema_says(ctx, response, case):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    reasons = {400: UNFIT, 422: UNPLANNABLE}.get(response.status_code, [])
    if response.status_code in (400, 422):
        said = words(response)
        assert any(re.search(reason, said, re.DOTALL) for reason in reasons), (
            f"a request that keeps to the schema was refused: {said}"
        )
