"""What a program with the official client of OpenAI does, against the base URL in the first argument."""

import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="any")
hello = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
said = "2 messages, the last: hello"

# An answer in one piece, with headers.
raw = client.chat.completions.with_raw_response.create(model="model", messages=hello, temperature=0.5)
answer = raw.parse()
assert answer.choices[0].message.content == said, answer
assert answer.choices[0].finish_reason == "stop" and answer.model == "scripted", answer
assert answer.usage.total_tokens == 8 and answer.usage.prompt_tokens_details.cached_tokens == 1, answer
assert answer.id == "chatcmpl-" + raw.headers["x-phoenix-plan-id"], raw.headers

# A stream.
chunks = list(
    client.chat.completions.create(
        model="model", messages=hello, stream=True, stream_options={"include_usage": True}
    )
)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert text == said, chunks
reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
assert reasons[-1] == "stop" and not any(reasons[:-1]), chunks
assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 5, chunks

# Tools, streamed and not, and the result of the tool.
tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
answer = client.chat.completions.create(model="model", messages=hello, tools=tools)
message = answer.choices[0].message
assert answer.choices[0].finish_reason == "tool_calls" and message.content is None, answer
assert message.tool_calls[0].function.name == "weather", answer
with client.chat.completions.stream(model="model", messages=hello, tools=tools) as stream:
    final = stream.get_final_completion()
assert final.choices[0].message.tool_calls[0].function.arguments == '{"city": "Bonn"}', final
result = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
answer = client.chat.completions.create(model="model", messages=[*hello, message, result], tools=tools)
assert answer.choices[0].message.content == "4 messages, the last: hello", answer

# Responses: whole, streamed, with a function, and in the background.
response = client.responses.create(model="model", instructions="be brief", input="hello")
assert response.output_text == said and response.status == "completed", response
assert response.usage.total_tokens == 8 and response.usage.input_tokens_details.cached_tokens == 1, response
with client.responses.stream(model="model", instructions="be brief", input="hello") as stream:
    text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    final = stream.get_final_response()
assert text == said and final.output_text == said, (text, final)
function = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
response = client.responses.create(model="model", input="hello", tools=[function, {"type": "web_search"}])
call = response.output[0]
assert (call.type, call.name, call.arguments) == ("function_call", "weather", '{"city": "Bonn"}'), response
events = list(client.responses.create(model="model", input="hello", tools=[function], stream=True))
assert [event.sequence_number for event in events] == list(range(len(events))), events
assert events[-1].response.output[0].call_id == "call_1", events
result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
response = client.responses.create(
    model="model", input=[{"role": "user", "content": "hello"}, call, result], tools=[function]
)
assert response.output_text == "3 messages, the last: hello", response
response = client.responses.create(model="model", input="hello", background=True)
for _ in range(600):
    if response.status not in ("queued", "in_progress"):
        break
    time.sleep(0.05)
    response = client.responses.retrieve(response.id)
assert response.status == "completed" and response.output_text == "1 messages, the last: hello", response
assert client.responses.cancel(response.id).status == "completed"
try:
    client.responses.create(model="model", input="hello", previous_response_id=response.id)
except openai.BadRequestError as refused:
    assert refused.param == "previous_response_id", refused
else:
    raise AssertionError("a conversation is not stored")

# Models, whose ids may have slashes.
models = [model.id for model in client.models.list()]
assert models[0] == "phoenix" and "model" in models and "ollama/a:b" in models, models
assert client.models.retrieve("ollama/a:b").owned_by == "ollama"

# Errors have their classes.
for wrong, error in [
    ({"model": "gpt-0"}, openai.NotFoundError),
    ({"n": 2}, openai.BadRequestError),
    ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError),
]:
    for stream in (False, True):
        try:
            client.chat.completions.create(**{"model": "model", "messages": hello, "stream": stream, **wrong})
        except error as refused:
            assert refused.body["param"] and refused.body["message"], refused.body
        else:
            raise AssertionError(wrong)

# A failure that a repetition cannot change is not repeated, although the status is 502; the test counts the runs.
for stream in (False, True):
    try:
        client.chat.completions.create(model="broken", messages=hello, stream=stream)
    except openai.InternalServerError as failed:
        assert failed.code == "execution_failed" and failed.response.headers["x-phoenix-plan-id"], failed
    else:
        raise AssertionError("the agent fails")
