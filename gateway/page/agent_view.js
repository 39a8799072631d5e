// One agent: its health, and its actions with their inputs.

import { factsOf } from "./agents.js";
import { call, serverNow } from "./api.js";
import { el, preview, sentence } from "./dom.js";
import { badge, moment } from "./format.js";
import { repeat } from "./router.js";

const POLL_EVERY = 2000;

export function open(root, { parameters: [name], signal }) {
  const problem = el("p", { class: "card notice", role: "status", hidden: true });
  const state = el("span");
  const lead = el("p", { class: "small" });
  const facts = el("div");
  const actions = el("div", { class: "listing" });
  root.append(
    el(
      "header",
      { class: "plan-head" },
      el("nav", { class: "small", "aria-label": "Path" }, el("a", { href: "/agents" }, "Agents"), " / ", el("code", {}, name)),
      el("div", { class: "head" }, el("h2", {}, name), state),
      lead,
    ),
    problem,
    facts,
    actions,
  );
  let shown = "";
  let declared = "";
  const show = (agent) => {
    problem.hidden = true;
    lead.textContent = [agent.description, factsOf(agent, serverNow())].filter(Boolean).join(" · ");
    const { actions: list, description: _, ...health } = agent;
    const next = JSON.stringify(health);
    if (next !== shown) {
      state.replaceChildren(badge(agent.health));
      facts.replaceChildren(healthOf(agent));
    }
    shown = next;
    if (JSON.stringify(list) !== declared) actions.replaceChildren(...actionsOf(list));
    declared = JSON.stringify(list);
  };
  repeat(async () => {
    try {
      show(await call(`/api/v1/agents/${encodeURIComponent(name)}`, { signal }));
    } catch (error) {
      if (signal.aborted) return;
      problem.replaceChildren(...sentence(error.message), ` (${error.code})`);
      problem.hidden = error.status === 401;
    }
  }, POLL_EVERY, signal);
}

function healthOf(agent) {
  const { agent_id: name, last_success_at: success, last_failure_at: failure, circuit_open_until: until, consecutive_failures: failures } = agent;
  const rows = [
    ["Failures in a row", String(failures)],
    ["Last success", success ? moment(success) : "none"],
    ["Last failure", failure ? moment(failure) : "none"],
    until && ["Next probe", moment(until)],
    ["Work", el("a", { href: `/plans?agent=${encodeURIComponent(name)}` }, "its plans")],
    ["Failed for good", el("a", { href: `/dead-letters?agent=${encodeURIComponent(name)}` }, "its dead letters")],
  ].filter(Boolean);
  return el("dl", { class: "card facts-card" }, ...rows.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)]));
}

function actionsOf(actions) {
  const heading = el("h3", { class: "quiet" }, actions.length === 0 ? "Any action is accepted" : `Actions: ${actions.length}, in addition to chat`);
  const view = ({ name, description, input_schema: schema }) =>
    el(
      "li",
      { class: "action" },
      el("p", {}, el("code", {}, name)),
      description && el("p", { class: "small" }, description),
      schema && el("details", {}, el("summary", { class: "small" }, "Schema of the input"), preview(JSON.stringify(schema, null, 2), { label: `Schema of ${name}`, limit: 4000 })),
    );
  return [heading, actions.length > 0 && el("ul", { class: "card rows" }, ...actions.map(view))].filter(Boolean);
}
