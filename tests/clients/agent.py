#!/usr/bin/env python3
"""Agent that answers like a model: with usage, and with a tool call where the caller offers a tool."""

import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    payload = request["payload"]
    metadata = {"model": "scripted", "usage": {"input_tokens": 3, "output_tokens": 5, "cached_input_tokens": 1}}
    text = f"{len(payload['messages'])} messages, the last: {payload['message']}"
    tools = payload.get("options", {}).get("tools", [])
    if tools and payload["messages"][-1]["role"] == "user":
        text = ""
        function = {"name": tools[0]["function"]["name"], "arguments": '{"city": "Bonn"}'}
        call = {"id": "call_1", "type": "function", "function": function}
        metadata["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = {name: request[name] for name in ("request_id", "api_version", "plan_id", "task_id", "correlation_id")}
    result = {"output_type": "text", "data": text, "metadata": metadata}
    print(json.dumps({**answer, "status": "success", "code": 0, "result": result}), flush=True)
