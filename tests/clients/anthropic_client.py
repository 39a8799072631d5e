"""What a program with the official client of Anthropic does, against the base URL in the first argument."""

import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="any")
hello = [{"role": "user", "content": "hello"}]
said = "2 messages, the last: hello"
common = {"model": "model", "max_tokens": 64, "system": "be brief"}

# An answer in one piece, with headers.
raw = client.messages.with_raw_response.create(**common, messages=hello, stop_sequences=["END"])
answer = raw.parse()
assert answer.content[0].text == said and answer.stop_reason == "end_turn", answer
assert answer.usage.input_tokens == 2 and answer.usage.cache_read_input_tokens == 1, answer
assert answer.usage.output_tokens == 5 and answer.model == "scripted", answer
assert answer.id == "msg_" + raw.headers["x-phoenix-plan-id"], raw.headers
assert answer._request_id == raw.headers["x-correlation-id"], raw.headers

# A stream.
with client.messages.stream(**common, messages=hello) as stream:
    assert "".join(stream.text_stream) == said
    final = stream.get_final_message()
assert final.stop_reason == "end_turn" and final.usage.output_tokens == 5, final

# Tools, streamed and not, and the result of the tool beside an image.
tools = [{"name": "weather", "input_schema": {"type": "object"}}]
answer = client.messages.create(**common, messages=hello, tools=tools)
assert answer.stop_reason == "tool_use", answer
assert answer.content[0].name == "weather" and answer.content[0].input == {"city": "Bonn"}, answer
with client.messages.stream(**common, messages=hello, tools=tools) as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_message()
assert "input_json" in kinds and final.content[0].input == {"city": "Bonn"}, (kinds, final)
image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
result = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "rain"}, image]}
answer = client.messages.create(
    **common, messages=[*hello, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
)
assert answer.content[0].text == "4 messages, the last: hello", answer

# Tokens.
assert client.messages.count_tokens(model="model", messages=hello).input_tokens > 4

# Errors have their classes.
for wrong, error in [
    ({"model": "gpt-0"}, anthropic.NotFoundError),
    ({"max_tokens": 0}, anthropic.BadRequestError),
    ({"messages": [{"role": "robot", "content": "x"}]}, anthropic.BadRequestError),
]:
    for stream in (False, True):
        try:
            client.messages.create(**{**common, "messages": hello, "stream": stream, **wrong})
        except error as refused:
            assert refused.body["error"]["message"] and refused.request_id == refused.body["request_id"], refused.body
        else:
            raise AssertionError(wrong)

# A failure that a repetition cannot change is not repeated, although the status is 502; the test counts the runs.
for stream in (False, True):
    try:
        client.messages.create(**{**common, "model": "broken"}, messages=hello, stream=stream)
    except anthropic.InternalServerError as failed:
        assert failed.body["error"]["type"] == "api_error" and failed.response.headers["x-phoenix-plan-id"], failed
    else:
        raise AssertionError("the agent fails")
