// What programs with the official MCP clients for Node.js do: `@modelcontextprotocol/sdk`, which begins with a handshake, and
// `@modelcontextprotocol/client`, which does not. Arguments: the folder with `node_modules`, the address of the gateway, and the
// program `phoenix`.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, url, phoenix] = process.argv.slice(2);
const require = createRequire(`${folder}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(name)));

async function use(client, transport, takesSchema) {
  const errors = [];
  client.onerror = (error) => errors.push(error.message);
  await client.connect(transport);
  const { tools } = await client.listTools();
  const names = tools.map((tool) => tool.name);
  assert.ok(names.includes("chat") && names.includes("git_agent.git_status"), `${names}`);
  const reports = [];
  const call = (message, options) => {
    const params = { name: "chat", arguments: { message, agent: "echo_agent" } };
    return takesSchema ? client.callTool(params, undefined, options) : client.callTool(params, options);
  };
  const answer = await call("hello", { onprogress: (report) => reports.push(report) });
  assert.equal(answer.content[0].text, "hello");
  assert.match(answer._meta["phoenix/plan_id"], /^[0-9a-f-]{36}$/);
  // `phoenix mcp` writes progress before the result. These clients give a notification to its handler one turn later than a response, which
  // removes the handler: progress that they read from a pipe together with the response goes to `onerror`. Over HTTP they read event by event.
  const lost = transport.constructor.name === "StdioClientTransport" ? errors : [];
  const arrived = [...reports.map((report) => report.message), ...lost.filter((error) => error.startsWith("Received a progress notification"))];
  assert.ok(arrived.some((text) => text.includes("is accepted")), JSON.stringify({ arrived, errors }));
  const wrong = await call("", {});
  assert.ok(wrong.isError && wrong.content[0].text.includes("`message`"), JSON.stringify(wrong));
  await client.close();
}

/** A plan as a task of the version that has them: its client asks for the task, and for its result. */
async function useTasks(client, transport, resultSchema) {
  await client.connect(transport);
  const tasks = client.experimental.tasks;
  const plan = (message, delay) => {
    const task = { key: "a", agent: "echo_agent", action: "chat", input: { message }, ...delay };
    return { name: "run_plan", arguments: { tasks: [task] } };
  };
  const seen = [];
  for await (const message of tasks.callToolStream(plan("as a task"), undefined, { task: { ttl: 60_000 } })) seen.push(message);
  assert.equal(seen[0].type, "taskCreated", JSON.stringify(seen));
  const last = seen.at(-1);
  assert.equal(last.type, "result", JSON.stringify(seen));
  assert.equal(last.result.structuredContent.output, "as a task");
  const { taskId } = seen[0].task;
  assert.equal((await tasks.getTask(taskId)).status, "completed");
  assert.ok((await tasks.listTasks()).tasks.some((task) => task.taskId === taskId));
  assert.equal((await tasks.getTaskResult(taskId, resultSchema)).structuredContent.output, "as a task");

  // The plan waits for an hour, so its result comes with the cancel.
  let waiting;
  const cancelled = [];
  for await (const message of tasks.callToolStream(plan("later", { delay_ms: 3_600_000 }), undefined, { task: {} })) {
    cancelled.push(message);
    if (message.type !== "taskCreated") continue;
    waiting = tasks.getTaskResult(message.task.taskId, resultSchema);
    assert.equal((await tasks.cancelTask(message.task.taskId)).status, "cancelled");
  }
  assert.equal((await waiting).structuredContent.status, "cancelled", JSON.stringify(cancelled));
  await client.close();
}

const identity = { name: "test", version: "1" };
const pipes = { command: phoenix, args: ["mcp", "--url", url] };

const legacy = await load("@modelcontextprotocol/sdk/client/index.js");
const legacyHttp = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
const legacyPipes = await load("@modelcontextprotocol/sdk/client/stdio.js");
const { CallToolResultSchema } = await load("@modelcontextprotocol/sdk/types.js");
const legacyTransports = () => [new legacyHttp.StreamableHTTPClientTransport(new URL(`${url}/mcp`)), new legacyPipes.StdioClientTransport(pipes)];
for (const transport of legacyTransports()) await use(new legacy.Client(identity), transport, true);
for (const transport of legacyTransports()) {
  await useTasks(new legacy.Client(identity), transport, CallToolResultSchema);
}

const modern = await load("@modelcontextprotocol/client");
const modernPipes = await load("@modelcontextprotocol/client/stdio");
for (const transport of [new modern.StreamableHTTPClientTransport(new URL(`${url}/mcp`)), new modernPipes.StdioClientTransport(pipes)]) {
  const client = new modern.Client(identity, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
  await use(client, transport, false);
}
