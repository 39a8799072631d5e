#!/usr/bin/env python3
"""Agent that counts the words of a chat and says each number at once: chunks before the answer. The contract is docs/agents.md."""
import json, sys, time

for line in sys.stdin:
    request = json.loads(line)
    words = request["payload"].get("message", "").split()
    said = ""
    for number, word in enumerate(words, 1):
        part = f"{number} {word}\n"
        chunk = {"type": "chunk", "request_id": request["request_id"], "data": part}
        if request["_meta"].get("stream"):
            print(json.dumps(chunk), flush=True)
            time.sleep(0.05)
        said += part
    answer = {key: request[key] for key in ("request_id", "api_version", "plan_id", "task_id", "correlation_id")}
    answer |= {"status": "success", "code": 0, "result": {"output_type": "text", "data": said}}
    print(json.dumps(answer), flush=True)
