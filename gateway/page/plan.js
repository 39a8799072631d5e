// Details of a plan: its tasks, their attempts, and their time by phase.

import { ApiError, call } from "./api.js";
import { duration, el, sentence } from "./dom.js";

const POLL_EVERY = 1000;
const PARTS = [
  ["queue", "queued"],
  ["backoff", "backoff"],
  ["run", "running"],
];

/** A disclosure that shows the plan, and polls it until it has ended. */
export function planDetails(planId) {
  const view = el("div", { class: "plan" });
  const whole = el("a", { class: "small", href: `/plans/${planId}` }, "Open the plan");
  const fold = el("details", { class: "happened" }, el("summary", {}, "Plan details"), view, whole);
  let timer;
  const poll = async () => {
    clearTimeout(timer);
    if (!fold.open) return;
    try {
      const plan = await call(`/api/v1/plans/${planId}`);
      view.replaceChildren(...plan.tasks.map(taskRow));
      if (plan.ended_at === null) timer = setTimeout(poll, POLL_EVERY);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      view.replaceChildren(el("p", { class: "problem" }, ...sentence(error.message)));
    }
  };
  fold.addEventListener("toggle", poll);
  return fold;
}

function taskRow({ key, agent, action, status, timeline, attempts }) {
  const parts = PARTS.map(([name, words]) => ({ name, words, took: timeline[`${name}_ms`] })).filter(({ took }) => took > 0);
  const summary = parts.map(({ words, took }) => `${words} ${duration(took)}`).join(" · ");
  return el(
    "section",
    { class: "task", data: { status }, "aria-label": `Task ${key}` },
    el("p", { class: "task-name" }, el("code", {}, key), el("span", { class: "small" }, `${agent} · ${action}`), el("span", { class: "state" }, status.replaceAll("_", " "))),
    el("div", { class: "spent", "aria-hidden": "true" }, ...parts.map(({ name, took }) => share(name, took))),
    el("p", { class: "small" }, summary || "0 ms"),
    attempts.length > 0 && el("ol", { class: "attempts small" }, ...attempts.map(attemptRow)),
  );
}

/** A part of the bar, proportional to its time. */
function share(name, took) {
  const part = el("span", { data: { part: name } });
  part.style.flexGrow = took;
  return part;
}

function attemptRow({ number, started_at: startedAt, ended_at: endedAt, outcome, error_class: kind, message, worker }) {
  const took = endedAt && duration(Date.parse(endedAt) - Date.parse(startedAt));
  const facts = [`Attempt ${number}`, outcome ?? "running", kind, took, worker].filter(Boolean).join(" · ");
  return el("li", {}, facts, message && el("span", { class: "why" }, ": ", ...sentence(message)));
}
