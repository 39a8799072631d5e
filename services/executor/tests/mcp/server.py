"""A scripted MCP server: each tool is one behaviour, and each option one way to start."""
import argparse, json, os, sys, threading, time

options = argparse.ArgumentParser()
options.add_argument("--starts", help="file that gets a line per start")
options.add_argument("--wait-for", help="file before whose existence the server answers nothing")
options.add_argument("--exit", type=int, help="exit with this code instead of starting")
options.add_argument("--only", action="append", help="offer only these tools")
options.add_argument("--deaf", action="store_true", help="read nothing after the handshake")
options = options.parse_args()

lock = threading.Lock()
received = []
cancelled = {}
changed = False


def write(text):
    with lock:
        sys.stdout.write(text)
        sys.stdout.flush()


def send(**message):
    write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")


def answer(request, text, **more):
    send(id=request["id"], result={"content": [{"type": "text", "text": text}], **more})


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def text_schema(name):
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


READ_ONLY = {"readOnlyHint": True}
TOOLS = {
    "echo": {"description": "Answers with its text", "inputSchema": text_schema("text"), "annotations": READ_ONLY},
    "structured": {"inputSchema": {"type": "object"}},
    "broken_schema": {"inputSchema": {"type": 7}},
    **{name: {"annotations": READ_ONLY} for name in ("read_die", "read_hang", "gate", "noise", "twice", "big", "meta", "env", "received", "late")},
    **{name: {} for name in ("die", "hang", "refuse", "refuse_call", "fail_call", "drop_echo", "progress", "flood")},
}


def call(request):
    name = request["params"]["name"]
    arguments = request["params"].get("arguments", {})
    if name == "echo":
        answer(request, arguments["text"])
    elif name == "structured":
        answer(request, "as text", structuredContent={"items": [1, 2.50, "ü"]})
    elif name == "broken_schema":
        answer(request, json.dumps(arguments))
    elif name in ("die", "read_die"):
        print("about to die", file=sys.stderr, flush=True)
        os._exit(3)
    elif name in ("hang", "read_hang"):
        pass
    elif name == "gate":
        wait_for(arguments["path"])
        answer(request, "opened")
    elif name == "noise":
        write("INFO a line of the log\n{'not': 'json'}\n\n")
        answer(request, "after the noise")
    elif name == "twice":
        answer(request, "first")
        answer(request, "second")
    elif name == "big":
        answer(request, "x" * (50 << 20))
    elif name == "meta":
        answer(request, json.dumps(request["params"]["_meta"]))
    elif name == "env":
        answer(request, json.dumps(dict(os.environ)))
    elif name == "received":
        answer(request, json.dumps(received))
    elif name == "late":
        while request["id"] not in cancelled:
            time.sleep(0.01)
        answer(request, "too late")
    elif name == "refuse":
        answer(request, "there is no such file", isError=True)
    elif name in ("refuse_call", "fail_call"):
        code = -32602 if name == "refuse_call" else -32603
        send(id=request["id"], error={"code": code, "message": "this does not work"})
    elif name == "drop_echo":
        global changed
        changed = True
        TOOLS.pop("echo", None)
        send(method="notifications/tools/list_changed")
        answer(request, "dropped")
    elif name == "progress":
        token = request["params"]["_meta"].get("progressToken")
        for done in (1, 2):
            params = {"progressToken": token, "progress": done, "total": 2, "message": f"step {done}"}
            send(method="notifications/progress", params=params)
        wait_for(arguments["path"])
        answer(request, "done")
    elif name == "flood":
        line = "x" * 65536 + "\n"
        while True:
            write(line)


def handle(request):
    method = request.get("method")
    received.append({"method": method, "params": request.get("params")})
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {"listChanged": True}}}
        send(id=request["id"], result={**result, "serverInfo": {"name": "scripted", "version": "1"}})
    elif method == "notifications/initialized" and options.deaf:
        time.sleep(3600)
    elif method == "tools/list":
        offered = [name for name in TOOLS if not options.only or name in options.only]
        half = len(offered) // 2
        # In two pages.
        page = offered[half:] if "cursor" in request.get("params", {}) else offered[:half]
        more = {} if "cursor" in request.get("params", {}) else {"nextCursor": "second"}
        send(id=request["id"], result={"tools": [{"name": name, **TOOLS[name]} for name in page], **more})
    elif method == "tools/call":
        threading.Thread(target=call, args=(request,), daemon=True).start()
    elif method == "notifications/cancelled":
        cancelled[request["params"]["requestId"]] = True
    elif method == "ping":
        if not any(call["method"] == "tools/call" and call["params"]["name"].endswith("hang") for call in received):
            send(id=request["id"], result={})


if options.starts:
    with open(options.starts, "a") as starts:
        starts.write("start\n")
if options.exit is not None:
    print("no licence", file=sys.stderr, flush=True)
    sys.exit(options.exit)
if options.wait_for:
    wait_for(options.wait_for)
write("a greeting on standard output\n")
for line in sys.stdin:
    handle(json.loads(line))
