// The tools that the conformance suite wants of a server with tasks, in front of a gateway: each is a call of one of the gateway's own tools.
// Everything else is passed on as it is. Argument: the address of the gateway. Prints the address of the proxy.

import http from "node:http";

const gateway = new URL(process.argv[2]);

/** A plan with one task. */
const plan = (task) => ({ name: "run_plan", arguments: { tasks: [{ key: "t", agent: "echo_agent", action: "chat", ...task }] } });

const tools = {
  greet: ({ name }) => ({ name: "chat", arguments: { agent: "echo_agent", message: `Hello, ${name}!` } }),
  slow_compute: ({ seconds = 0, label = "" }) => plan({ input: { message: `computed ${label}` }, delay_ms: Math.round(seconds * 1000) }),
  // Nobody approves it.
  failing_job: () => plan({ input: { message: "x" }, approval: { reason: "conformance", timeout_ms: 1000 } }),
};

const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** Calls the gateway's tool instead, and names it in the header that repeats the name. */
function translate(message, headers) {
  const tool = message?.method === "tools/call" && Object.hasOwn(tools, message.params?.name) && message.params.name;
  if (!tool) return message;
  const call = tools[tool](message.params.arguments ?? {});
  if (headers["mcp-name"] === tool) headers["mcp-name"] = call.name;
  return { ...message, params: { ...message.params, ...call } };
}

const proxy = http.createServer(async (request, response) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  let body = Buffer.concat(pieces);
  const { "content-length": _, "transfer-encoding": __, ...headers } = request.headers;
  const message = parsed(body.toString());
  const translated = translate(message, headers);
  if (translated !== message) body = Buffer.from(JSON.stringify(translated));
  headers["content-length"] = body.length;
  const target = { host: gateway.hostname, port: gateway.port, path: request.url, method: request.method, headers };
  const upstream = http.request(target, async (answer) => {
    const { "content-length": _, ...headers } = answer.headers;
    response.writeHead(answer.statusCode, headers);
    if (message?.method !== "tools/list") return answer.pipe(response);
    let text = "";
    for await (const piece of answer) text += piece;
    const list = parsed(text);
    list?.result?.tools?.push(...Object.keys(tools).map((name) => ({ name, description: name, inputSchema: { type: "object" } })));
    response.end(list ? JSON.stringify(list) : text);
  });
  upstream.on("error", () => response.destroy());
  response.on("close", () => upstream.destroy());
  upstream.end(body);
});
proxy.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${proxy.address().port}/mcp`));
