// The list of agents.

import { call, serverNow } from "./api.js";
import { el, outdated } from "./dom.js";
import { factsOf } from "./agents.js";
import { badge } from "./format.js";
import { repeat } from "./router.js";

const POLL_EVERY = 2000;

export function open(root, { signal }) {
  const problem = el("p", { class: "card notice", role: "status", hidden: true });
  const count = el("p", { class: "small", role: "status" }, "loading…");
  const items = el("ul", { class: "card rows agent-rows", hidden: true });
  const rows = new Map();
  root.append(el("header", { class: "head" }, el("h2", {}, "Agents"), count), problem, items);
  const show = (agents) => {
    const names = agents.map(({ agent_id: name }) => name);
    if (names.join() !== [...rows.keys()].join()) {
      rows.clear();
      names.forEach((name) => rows.set(name, agentRow(name)));
      items.replaceChildren(...[...rows.values()].map(({ node }) => node));
    }
    agents.forEach((agent) => rows.get(agent.agent_id).update(agent));
    items.hidden = agents.length === 0;
    const open = agents.filter(({ health }) => health === "unhealthy").length;
    const text = `${agents.length} ${agents.length === 1 ? "agent" : "agents"}${open > 0 ? `, ${open} unhealthy` : ""}`;
    if (count.textContent !== text) count.textContent = text;
    problem.hidden = true;
  };
  repeat(async () => {
    try {
      show(await call("/api/v1/agents", { signal }));
    } catch (error) {
      if (!signal.aborted) outdated(error, problem, count);
    }
  }, POLL_EVERY, signal);
  const clock = setInterval(() => rows.forEach((row) => row.tick()), 1000);
  signal.addEventListener("abort", () => clearInterval(clock));
}

function agentRow(name) {
  const state = el("span");
  const facts = el("span", { class: "small" });
  const node = el("li", {}, el("a", { href: `/agents/${encodeURIComponent(name)}` }, el("strong", {}, name), state, facts));
  let agent;
  const tick = () => {
    const text = factsOf(agent, serverNow());
    if (facts.textContent !== text) facts.textContent = text;
  };
  const update = (next) => {
    if (agent?.health !== next.health) state.replaceChildren(badge(next.health));
    agent = next;
    tick();
  };
  return { node, update, tick };
}
