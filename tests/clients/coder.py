#!/usr/bin/env python3
"""Agent that answers a coding client like a model: it calls the client's tool for files, then says that it is done."""

import json
import re
import sys

for line in sys.stdin:
    request = json.loads(line)
    payload = request["payload"]
    messages = payload["messages"]
    offered = [tool["function"]["name"] for tool in payload.get("options", {}).get("tools", [])]
    metadata = {"model": "scripted", "usage": {"input_tokens": 3, "output_tokens": 5}}
    if messages[-1]["role"] == "tool":
        text = f"done after {sum(message['role'] == 'tool' for message in messages)} call"
    else:
        path = re.findall(r"write into (\S+\.txt)", json.dumps(messages))[-1]
        arguments = json.dumps({"file_path": path, "content": "written by the client's own tool\n"})
        name = next(name for name in offered if name == "write_file")
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
        text, metadata["message"] = "", {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = {name: request[name] for name in ("request_id", "api_version", "plan_id", "task_id", "correlation_id")}
    result = {"output_type": "text", "data": text, "metadata": metadata}
    print(json.dumps({**answer, "status": "success", "code": 0, "result": result}), flush=True)
