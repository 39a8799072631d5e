#!/usr/bin/env python3
"""Agent that reviews the diff in a chat: one JSON line in, one JSON line out. The contract is docs/agents.md."""
import json, re, sys

SUSPECT = {"trailing space": r"\s$", "debugging": r"print\(|dbg!|console\.log", "unfinished": r"TODO|FIXME"}


def review(diff):
    added = re.findall(r"^\+(?!\+\+ )(.*)", diff, re.MULTILINE)
    found = [f"- {why}: {line.strip()}" for line in added for why, what in SUSPECT.items() if re.search(what, line)]
    return "\n".join([f"{len(added)} added lines, {len(found)} worth a second look", *found])


for line in sys.stdin:
    request = json.loads(line)
    answer = {key: request[key] for key in ("request_id", "api_version", "plan_id", "task_id", "correlation_id")}
    diff = request["payload"].get("message", "")
    if request["action"] != "chat":
        answer |= {"status": "error", "code": 501, "error": f"unknown action {request['action']}; known: chat"}
    elif "\n+" not in diff:
        answer |= {"status": "error", "code": 400, "error": "there is no diff with added lines in `message`"}
    else:
        answer |= {"status": "success", "code": 0, "result": {"output_type": "text", "data": review(diff)}}
    print(json.dumps(answer), flush=True)
