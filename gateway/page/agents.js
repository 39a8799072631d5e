// Health of the agents, polled.

import { call, serverNow } from "./api.js";
import { announce, byId, countdown, el, span } from "./dom.js";

const POLL_EVERY = 2000;
const POLL_AT_MOST_EVERY = 30_000;
const WORDS = { healthy: "healthy", degraded: "degraded", unhealthy: "unhealthy" };

/** Rows by agent name. Each row renders its agent, and its relative times every second. */
const rows = new Map();
let wait = POLL_EVERY;
let timer;
/** Time of the last response; null before the first. */
let updatedAt = null;

/** Starts polling. Hidden pages do not poll. */
export function watchAgents() {
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refreshAgents()));
  setInterval(() => rows.forEach((row) => row.render()), 1000);
  refreshAgents();
}

/** Polls now, and repeatedly from then on. */
export async function refreshAgents() {
  clearTimeout(timer);
  try {
    show(await call("/api/v1/agents"));
    wait = POLL_EVERY;
  } catch (error) {
    showProblem(error);
    // Polling resumes when the token is set.
    if (error.status === 401) return;
    wait = Math.min(wait * 2, POLL_AT_MOST_EVERY);
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(refreshAgents, wait);
}

function show(agents) {
  updatedAt = new Date();
  byId("agents-problem").hidden = true;
  byId("agents").hidden = agents.length === 0;
  delete byId("agents").dataset.stale;
  const names = new Set(agents.map((agent) => agent.agent_id));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.node.remove();
    rows.delete(name);
  }
  for (const agent of agents) {
    let row = rows.get(agent.agent_id);
    if (!row) {
      row = agentRow(agent.agent_id);
      rows.set(agent.agent_id, row);
      byId("agents").append(row.node);
    }
    row.update(agent);
  }
  updateChoices([...names]);
  summarise(agents);
}

function showProblem(error) {
  const problem = byId("agents-problem");
  const stale = updatedAt ? ` The list below is from ${updatedAt.toLocaleTimeString()}.` : "";
  problem.textContent = `${error.message} (${error.code}).${stale}`;
  problem.hidden = error.status === 401;
  byId("agents").dataset.stale = "true";
  setSummary("unknown", error.status === 401 ? "locked" : "health unknown");
}

function agentRow(name) {
  const state = el("span", { class: "state" });
  const facts = el("p", { class: "facts" });
  const node = el("li", { data: { agent: name } }, el("span", { class: "name" }, name), state, facts);
  let agent = null;
  const render = () => {
    const text = agent ? factsOf(agent, serverNow()) : "";
    if (facts.textContent !== text) facts.textContent = text;
  };
  const update = (next) => {
    if (agent && agent.health !== next.health) announce(`${name} is ${WORDS[next.health] ?? next.health}`);
    agent = next;
    node.dataset.state = next.health;
    state.textContent = WORDS[next.health] ?? next.health;
    render();
  };
  return { node, update, render };
}

/** The health of an agent in one line, at `now`. */
export function factsOf({ health, consecutive_failures: failures, ...times }, now) {
  const facts = [];
  if (failures > 0) facts.push(failures === 1 ? "1 failure" : `${failures} failures`);
  if (health === "unhealthy" && times.circuit_open_until) {
    const left = Date.parse(times.circuit_open_until) - now;
    facts.push(left > 0 ? `rejects chats for ${countdown(left)}` : "the next chat is a probe");
  }
  if (times.last_success_at) facts.push(`last success ${span(now - Date.parse(times.last_success_at))} ago`);
  else if (failures === 0) facts.push("not used yet");
  return facts.join(" · ");
}

/** Updates the list of agents in the composer, and keeps the selection. */
function updateChoices(names) {
  const select = byId("agent");
  const offered = [...select.options].slice(1).map((option) => option.value);
  if (offered.join() === names.join()) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...names.map((name) => el("option", { value: name }, name)));
  select.value = names.includes(chosen) ? chosen : "";
}

function summarise(agents) {
  const count = (state) => agents.filter((agent) => agent.health === state).length;
  for (const state of ["unhealthy", "degraded"]) {
    if (count(state) > 0) return setSummary(state, `${count(state)} of ${agents.length} ${WORDS[state]}`);
  }
  setSummary("healthy", agents.length === 1 ? "1 agent healthy" : `${agents.length} agents healthy`);
}

function setSummary(state, text) {
  const summary = byId("summary");
  summary.dataset.state = state;
  summary.textContent = text;
}
