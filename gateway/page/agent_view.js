// One agent: its health, its circuit with what changed it, and its actions with their inputs.

import { factsOf } from "./agents.js";
import { call, serverNow } from "./api.js";
import { confirmed, reasonField } from "./dialog.js";
import { announce, el, preview, sentence } from "./dom.js";
import { badge, moment, took, words } from "./format.js";
import { button } from "./plan_actions.js";
import { field } from "./plans.js";
import { repeat } from "./router.js";

const POLL_EVERY = 2000;

export function open(root, { parameters: [name], signal }) {
  const problem = el("p", { class: "card notice", role: "status", hidden: true });
  const state = el("span");
  const lead = el("p", { class: "small" });
  const facts = el("div");
  const actions = el("div", { class: "listing" });
  const changes = el("div", { class: "listing" });
  const buttons = el("div", { class: "row actions" });
  root.append(
    el(
      "header",
      { class: "plan-head" },
      el("nav", { class: "small", "aria-label": "Path" }, el("a", { href: "/agents" }, "Agents"), " / ", el("code", {}, name)),
      el("div", { class: "head" }, el("h2", {}, name), state, buttons),
      lead,
    ),
    problem,
    facts,
    changes,
    actions,
  );
  let shown = "";
  let declared = "";
  const show = (agent) => {
    problem.hidden = true;
    lead.textContent = [agent.description, factsOf(agent, serverNow())].filter(Boolean).join(" · ");
    const { actions: list, mcp_listing: listing, description: _, ...health } = agent;
    const next = JSON.stringify(health);
    if (next !== shown) {
      state.replaceChildren(badge(agent.health));
      facts.replaceChildren(healthOf(agent));
      changes.replaceChildren(...workersOf(agent), ...changesOf(agent));
      buttons.replaceChildren(decision(agent, (next) => show(next)));
    }
    shown = next;
    if (JSON.stringify([list, listing]) !== declared) actions.replaceChildren(...actionsOf(list), ...listingOf(listing));
    declared = JSON.stringify([list, listing]);
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
  const { state, reason, since, isolated_by: actor, next_probe_at: probe } = agent;
  const { agent_id: name, last_success_at: success, last_failure_at: failure, consecutive_failures: failures } = agent;
  const rows = [
    ["Circuit", badge(state)],
    reason && ["Reason", reason],
    actor && ["Isolated by", actor],
    since && ["Since", moment(since)],
    probe && ["Next probe", moment(probe)],
    ["Failures in a row", String(failures)],
    ["Last success", success ? moment(success) : "none"],
    ["Last failure", failure ? moment(failure) : "none"],
    ["Work", el("a", { href: `/plans?agent=${encodeURIComponent(name)}` }, "its plans")],
    ["Failed for good", el("a", { href: `/dead-letters?agent=${encodeURIComponent(name)}` }, "its dead letters")],
  ].filter(Boolean);
  return el("dl", { class: "card facts-card" }, ...rows.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)]));
}

/** The button that isolates an agent, or restores one that is isolated. `done` gets the agent afterwards. */
function decision({ agent_id: name, state }, done) {
  const isIsolated = state === "isolated";
  const verb = isIsolated ? "restore" : "isolate";
  const title = isIsolated ? "Restore" : "Isolate";
  return button(title, async () => {
    const agent = await confirmed({
      title: `${title} ${name}?`,
      text: isIsolated ? "The agent gets tasks again, and its circuit is closed." : "The agent gets no tasks until it is restored. Tasks that run are not affected.",
      button: title,
      isDangerous: !isIsolated,
      fields: [reasonField(true), field("Your name (optional)", el("input", { name: "actor", maxlength: "128", autocomplete: "name" }))],
      act: ({ reason, actor }) => call(`/api/v1/agents/${encodeURIComponent(name)}:${verb}`, { method: "POST", body: actor ? { reason, actor } : { reason } }),
    });
    if (!agent) return;
    announce(`${name} is ${isIsolated ? "restored" : "isolated"}`);
    done(agent);
  });
}

/** Processes at each executor, and the end of the last standard error. */
function workersOf({ workers, last_stderr: stderr }) {
  const view = ({ executor, running, free, processes, restarts, crash_loop: isLooping }) =>
    el(
      "li",
      { class: "action" },
      el("p", { class: "change" }, el("code", {}, executor), isLooping && badge("crash_loop")),
      el("p", { class: "small" }, `${running} running, ${free} free · ${processes} processes, ${restarts} restarts`),
    );
  return [
    workers.length > 0 && el("h3", { class: "quiet" }, "Processes by executor"),
    workers.length > 0 && el("ul", { class: "card rows" }, ...workers.map(view)),
    stderr && el("h3", { class: "quiet" }, "Last standard error, ", moment(stderr.at)),
    stderr && preview(stderr.text, { label: "Last standard error" }),
  ].filter(Boolean);
}

function changesOf({ transitions }) {
  if (!transitions || transitions.length === 0) return [];
  const view = ({ at, from, to, cause, reason, actor, evidence }) => {
    const facts = [words(cause), actor && `by ${actor}`, `${evidence.failed_calls} of ${evidence.calls} calls failed`, evidence.slow_calls > 0 && `${evidence.slow_calls} slow`, evidence.took_ms > 0 && `the last took ${took(evidence.took_ms)}`];
    return el(
      "li",
      { class: "action" },
      el("p", { class: "change" }, badge(from), "→", badge(to), moment(at)),
      el("p", { class: "why" }, ...sentence(reason)),
      el("p", { class: "small" }, facts.filter(Boolean).join(" · ")),
    );
  };
  return [el("h3", { class: "quiet" }, "Changes of the circuit, newest first"), el("ol", { class: "card rows" }, ...transitions.map(view))];
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

/** Resources and prompts of an MCP server. */
function listingOf(listing) {
  if (!listing) return [];
  const { resources, prompts, truncated } = listing;
  const resource = ({ uri, name, description, mime_type: type, template }) =>
    el("li", { class: "action" }, el("p", {}, el("code", {}, uri)), el("p", { class: "small" }, [name, template ? "template" : type, description].filter(Boolean).join(" · ")));
  const prompt = ({ name, description, arguments: list }) =>
    el(
      "li",
      { class: "action" },
      el("p", {}, el("code", {}, name), list.length > 0 && ` with ${list.map(({ name, required }) => (required ? name : `${name} (optional)`)).join(", ")}`),
      description && el("p", { class: "small" }, description),
    );
  const group = (title, items, view) => items.length > 0 && [el("h3", { class: "quiet" }, `${title}: ${items.length}`), el("ul", { class: "card rows" }, ...items.map(view))];
  return [group("Resources", resources, resource), group("Prompts", prompts, prompt), truncated && el("p", { class: "small" }, "The server has more resources or prompts than are listed.")].flat().filter(Boolean);
}
