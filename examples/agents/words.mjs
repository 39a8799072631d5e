#!/usr/bin/env node
// Agent in Node without a package: the most frequent words of a text. One JSON line in, one JSON line out; the contract is docs/agents.md.
import { createInterface } from "node:readline";

const ECHOED = ["request_id", "api_version", "plan_id", "task_id", "correlation_id"];

function frequentWords(text, limit) {
  const counts = new Map();
  for (const [word] of text.toLowerCase().matchAll(/\p{Letter}+/gu)) counts.set(word, (counts.get(word) ?? 0) + 1);
  const sorted = [...counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
  return sorted.slice(0, limit).map(([word, count]) => ({ word, count }));
}

function answer({ action, payload }) {
  if (action !== "chat") return { status: "error", code: 501, error: `unknown action ${action}; known: chat` };
  const data = frequentWords(payload.message ?? "", payload.limit ?? 5);
  return { status: "success", code: 0, result: { output_type: "json", data } };
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const echoed = Object.fromEntries(ECHOED.map((name) => [name, request[name]]));
  process.stdout.write(JSON.stringify({ ...echoed, ...answer(request) }) + "\n");
}
