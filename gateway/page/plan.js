// What happened to a plan: its tasks, their attempts, and where the time went.

import { ApiError, call } from "./api.js";
import { duration, el, sentence } from "./dom.js";

const LOOK_EVERY = 1000;
const PARTS = [
  ["queue", "waited"],
  ["backoff", "paused between attempts"],
  ["run", "ran"],
];

/** A fold that, once opened, shows the plan and follows it to its end. */
export function whatHappened(planId) {
  const view = el("div", { class: "plan" });
  const fold = el("details", { class: "happened" }, el("summary", {}, "What happened"), view);
  let timer;
  const look = async () => {
    clearTimeout(timer);
    if (!fold.open) return;
    try {
      const plan = await call(`/api/v1/plans/${planId}`);
      view.replaceChildren(...plan.tasks.map(taskRow));
      if (plan.ended_at === null) timer = setTimeout(look, LOOK_EVERY);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      view.replaceChildren(el("p", { class: "problem" }, ...sentence(error.message)));
    }
  };
  fold.addEventListener("toggle", look);
  return fold;
}

function taskRow({ key, agent, action, status, timeline, attempts }) {
  const parts = PARTS.map(([name, words]) => ({ name, words, took: timeline[`${name}_ms`] })).filter(({ took }) => took > 0);
  const told = parts.map(({ words, took }) => `${words} ${duration(took)}`).join(" · ");
  return el(
    "section",
    { class: "task", data: { status }, "aria-label": `Task ${key}` },
    el("p", { class: "task-name" }, el("code", {}, key), el("span", { class: "small" }, `${agent} · ${action}`), el("span", { class: "state" }, status.replaceAll("_", " "))),
    el("div", { class: "spent", "aria-hidden": "true" }, ...parts.map(({ name, took }) => share(name, took))),
    el("p", { class: "small" }, told || "took no time"),
    attempts.length > 0 && el("ol", { class: "attempts small" }, ...attempts.map(attemptRow)),
  );
}

/** A part of the bar, as long as its share of the time. */
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
