"""What a program with LangChain's client of OpenAI does, against the base URL in the first argument."""

import sys

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url=sys.argv[1], api_key="any", model="model", stream_usage=True)
hello = [("system", "be brief"), ("human", "hello")]
said = "2 messages, the last: hello"

# An answer in one piece, and a stream.
answer = model.invoke(hello)
assert answer.content == said and answer.usage_metadata["total_tokens"] == 8, answer
chunks = list(model.stream(hello))
assert "".join(chunk.content for chunk in chunks) == said, chunks
assert chunks[-1].usage_metadata is not None or any(chunk.usage_metadata for chunk in chunks), chunks


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


# A tool, its call and its result.
bound = model.bind_tools([weather])
asked = [HumanMessage("hello")]
answer = bound.invoke(asked)
assert answer.tool_calls[0]["name"] == "weather" and answer.tool_calls[0]["args"] == {"city": "Bonn"}, answer
whole = None
for chunk in bound.stream(asked):
    whole = chunk if whole is None else whole + chunk
assert whole.tool_calls[0]["args"] == {"city": "Bonn"}, whole
result = ToolMessage(weather.invoke(answer.tool_calls[0]["args"]), tool_call_id=answer.tool_calls[0]["id"])
answer = bound.invoke([*asked, answer, result])
assert answer.content == "3 messages, the last: hello", answer

# An error has its class.
try:
    model.invoke([("human", " ")])
except openai.BadRequestError as refused:
    assert "messages[0].content" in str(refused), refused
else:
    raise AssertionError("a blank message is refused")
