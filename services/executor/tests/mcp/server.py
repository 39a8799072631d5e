"""A scripted MCP server: each tool is one behaviour, and each option one way to start."""
import argparse, json, os, sys, threading, time

options = argparse.ArgumentParser()
options.add_argument("--starts", help="file that gets a line per start")
options.add_argument("--wait-for", help="file before whose existence the server answers nothing")
options.add_argument("--exit", type=int, help="exit with this code instead of starting")
options.add_argument("--only", action="append", help="offer only these tools")
options.add_argument("--deaf", action="store_true", help="read nothing after the handshake")
options.add_argument("--log", help="file that gets the method of each message")
options.add_argument("--slow", type=float, default=0, help="seconds before the first message is read")
options.add_argument("--ttl", type=int, help="milliseconds for which a list of tools is valid")
options.add_argument(
    "--lists",
    choices=["some", "endless", "many", "malformed", "huge", "silent"],
    help="offer resources and prompts. endless: each page has another one; many: one page of 3 MB; malformed: no lists, and an error;"
    " huge: one page of 20 MB; silent: no answer about prompts",
)
options.add_argument(
    "--era",
    default="old",
    choices=["old", "silent", "exits", "modern", "both", "future"],
    help="old: with a handshake, and an error for other requests before it; silent: no answer to them; exits: an exit instead;"
    " modern: without a handshake; both; future: neither",
)
options = options.parse_args()

lock = threading.Lock()
received = []
cancelled = {}
subscription = None
shaken = False


def write(text):
    with lock:
        sys.stdout.write(text)
        sys.stdout.flush()


def send(**message):
    write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")


def answer(request, text, **more):
    send(id=request["id"], result={"content": [{"type": "text", "text": text}], **more})


def tell_change(name="tools"):
    method = f"notifications/{name}/list_changed"
    if shaken:
        send(method=method)
    elif subscription is not None:
        meta = {"io.modelcontextprotocol/subscriptionId": subscription}
        send(method=method, params={"_meta": meta})


def refuse(request, code, message, **data):
    send(id=request["id"], error={"code": code, "message": message, **({"data": data} if data else {})})


def speaks(request):
    """Whether the request is one of an era that this server speaks; it is answered if not."""
    global shaken
    method = request["method"]
    meta = request.get("params", {}).get("_meta", {})
    is_modern = meta.get("io.modelcontextprotocol/protocolVersion") == "2026-07-28"
    if method == "initialize":
        if options.era in ("modern", "future"):
            refuse(request, -32601, "unknown method; this server speaks 2026-07-28")
            return False
        shaken = True
        return True
    if options.era == "future":
        refuse(request, -32022, "unsupported version", supported=["2031-01-01"])
        return False
    if options.era in ("modern", "both") and is_modern:
        return True
    if shaken:
        return True
    if options.era == "exits":
        print("expected initialize", file=sys.stderr, flush=True)
        os._exit(1)
    if options.era != "silent":
        refuse(request, -32602, "invalid request before initialize")
    return False


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
    **{name: {} for name in ("die", "hang", "refuse", "refuse_call", "fail_call", "drop_echo", "change_echo", "progress", "flood", "ask", "sample", "again")},
}


if options.lists:
    TOOLS["add_prompt"] = {}

PROMPTS = [
    {"name": "greet", "title": "Greets", "arguments": [{"name": "who", "description": "Whom", "required": True}, {"name": "how"}]},
]


def list_resources(request):
    if options.lists == "malformed":
        send(id=request["id"], result={"resources": "none"})
    elif options.lists in ("many", "huge"):
        number = 1500 if options.lists == "many" else 10_000
        resources = [{"uri": f"note:///{number}", "name": "x" * 1000, "description": "x" * 1000} for number in range(number)]
        send(id=request["id"], result={"resources": resources})
    elif options.lists == "endless":
        number = int(request.get("params", {}).get("cursor", "0"))
        resources = [{"uri": f"note:///{number}/{part}", "name": "note"} for part in range(20)]
        send(id=request["id"], result={"resources": resources, "nextCursor": str(number + 1)})
    elif "cursor" in request.get("params", {}):
        send(id=request["id"], result={"resources": [{"uri": "note:///2", "name": "second"}]})
    else:
        first = {"uri": "note:///1", "name": "first", "description": "A note", "mimeType": "text/plain"}
        send(id=request["id"], result={"resources": [first, {"name": "without an address"}], "nextCursor": "second"})


def list_prompts(request):
    if options.lists == "malformed":
        refuse(request, -32603, "this does not work")
    elif options.lists != "silent":
        send(id=request["id"], result={"prompts": PROMPTS})


def elicit(request, state, name, message, properties):
    """Asks one question."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    asked = {name: {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}}
    result = {"resultType": "input_required", "inputRequests": asked, "requestState": state}
    send(id=request["id"], result=result)


answers = {}


def elicit_in_call(message, properties):
    """Asks one question in the middle of a call, and waits for the answer."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    with lock:
        number = f"question {len(answers)}"
        answers[number] = None
    send(id=number, method="elicitation/create", params={"message": message, "requestedSchema": schema})
    while answers[number] is None:
        time.sleep(0.01)
    return answers[number]


def ask_in_call(request):
    """Asks two questions one after the other, and acts when both are accepted."""
    arguments = request["params"]["arguments"]
    branch = elicit_in_call("Which branch?", {"name": {"type": "string"}})
    if "error" in branch or branch["result"]["action"] != "accept":
        answer(request, f"no branch: {json.dumps(branch)}", isError="error" in branch)
        return
    name = branch["result"]["content"]["name"]
    sure = elicit_in_call(f"Push to {name}?", {})["result"]["action"]
    if sure == "accept" and "effects" in arguments:
        with open(arguments["effects"], "a") as effects:
            effects.write(name + "\n")
    answer(request, f"{arguments.get('repository')}: {name} {sure}")


def ask(request):
    """Asks two questions one after the other, and keeps what it knows in its state."""
    params = request["params"]
    repository = params["arguments"].get("repository")
    state, responses = params.get("requestState"), params.get("inputResponses", {})
    if state is None:
        elicit(request, "first", "branch", "Which branch?", {"name": {"type": "string"}})
    elif state == "first":
        branch = responses["branch"]
        if branch["action"] != "accept":
            answer(request, f"{repository}: {branch['action']}")
            return
        message = f"Push to {branch['content']['name']}?"
        elicit(request, f"second {branch['content']['name']}", "sure", message, {})
    else:
        answer(request, f"{repository}: {state.split()[1]} {responses['sure']['action']}")


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
    elif name == "change_echo":
        TOOLS["echo"] = {"inputSchema": text_schema("words")}
        tell_change()
        answer(request, "changed")
    elif name == "add_prompt":
        PROMPTS.append({"name": "part"})
        tell_change("prompts")
        answer(request, "added")
    elif name == "drop_echo":
        TOOLS.pop("echo", None)
        tell_change()
        answer(request, "dropped")
    elif name == "progress":
        token = request["params"]["_meta"].get("progressToken")
        for done in (1, 2):
            params = {"progressToken": token, "progress": done, "total": 2, "message": f"step {done}"}
            send(method="notifications/progress", params=params)
        wait_for(arguments["path"])
        answer(request, "done")
    elif name == "ask":
        if shaken:
            ask_in_call(request)
        else:
            ask(request)
    elif name == "sample":
        asked = {"poem": {"method": "sampling/createMessage", "params": {"messages": []}}}
        send(id=request["id"], result={"resultType": "input_required", "inputRequests": asked})
    elif name == "again":
        state = request["params"].get("requestState", "")
        if len(state) < arguments["times"]:
            send(id=request["id"], result={"resultType": "input_required", "requestState": state + "x"})
        else:
            answer(request, state)
    elif name == "flood":
        line = "x" * 65536 + "\n"
        while True:
            write(line)


def more_capabilities():
    return {"resources": {}, "prompts": {"listChanged": True}} if options.lists else {}


def handle(request):
    method = request.get("method")
    if method is None:
        answers[request["id"]] = request
        return
    received.append({"method": method, "params": request.get("params")})
    if options.log:
        with open(options.log, "a") as log:
            log.write(method + "\n")
    if "id" in request and not speaks(request):
        return
    if method == "server/discover":
        if options.era in ("modern", "both"):
            capabilities = {"tools": {"listChanged": options.ttl is None}, **more_capabilities()}
            send(id=request["id"], result={"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities})
        else:
            refuse(request, -32601, "unknown method")
    if method == "subscriptions/listen":
        global subscription
        subscription = request["id"]
        meta = {"io.modelcontextprotocol/subscriptionId": subscription}
        wanted = request["params"]["notifications"]
        send(method="notifications/subscriptions/acknowledged", params={"_meta": meta, "notifications": wanted})
    if method == "initialize":
        asked = request["params"]["protocolVersion"]
        result = {"protocolVersion": min(asked, "2025-06-18"), "capabilities": {"tools": {"listChanged": True}, **more_capabilities()}}
        send(id=request["id"], result={**result, "serverInfo": {"name": "scripted", "version": "1"}})
    elif method == "notifications/initialized" and options.deaf:
        time.sleep(3600)
    elif method == "tools/list":
        offered = [name for name in TOOLS if not options.only or name in options.only]
        half = len(offered) // 2
        # In two pages.
        page = offered[half:] if "cursor" in request.get("params", {}) else offered[:half]
        more = {} if "cursor" in request.get("params", {}) else {"nextCursor": "second"}
        if options.ttl is not None:
            more["ttlMs"] = options.ttl
        send(id=request["id"], result={"tools": [{"name": name, **TOOLS[name]} for name in page], **more})
    elif method == "resources/list":
        list_resources(request)
    elif method == "resources/templates/list":
        if options.lists == "some":
            send(id=request["id"], result={"resourceTemplates": [{"uriTemplate": "note:///{number}", "name": "notes"}]})
        else:
            refuse(request, -32601, "unknown method")
    elif method == "prompts/list":
        list_prompts(request)
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
time.sleep(options.slow)
for line in sys.stdin:
    handle(json.loads(line))
