// Details of one task: what went in, what came out, each attempt.

import { ApiError, download } from "./api.js";
import { approvalView } from "./approval.js";
import { announce, el, preview, sentence } from "./dom.js";
import { badge, bytes, clock, millis, took, usageText } from "./format.js";
import { lostDuring } from "./phases.js";

/** A panel for the task of the plan `id` that is selected. `live` returns what a running task has said so far. */
export function taskPanel(id, { live, close, refresh }) {
  const node = el("section", { class: "card task-panel", "aria-labelledby": "task-name", hidden: true });
  let shown = "";
  const growing = el("div", { class: "output live", "aria-label": "Output so far", role: "group", tabindex: "0" });
  const show = (task) => {
    node.hidden = !task;
    if (!task) {
      shown = "";
      return node.replaceChildren();
    }
    const said = live(task.key);
    const isGrowing = task.ended_at === null && said !== "";
    if (growing.textContent !== said) growing.textContent = said;
    // Rendered again only after a change, so that what a reader has opened stays open.
    const next = JSON.stringify([task.key, task.status, task.ended_at, task.attempts.map(({ number, ended_at: end }) => [number, end]), isGrowing, task.approval, task.pause, task.waits_for]);
    if (next === shown) return;
    shown = next;
    const decisions = [
      task.approval && part("Approval", approvalView(id, task, "input", refresh)),
      task.pause && part("Budget", approvalView(id, task, "budget", refresh)),
    ];
    node.replaceChildren(...sections(task, isGrowing && growing, decisions, close));
  };
  return { node, show };
}

/** What a task waits for, by the kind of the wait. */
const WAIT_WORDS = { capacity: "a place at its agent", approval: "an approval", timer: "its time", budget: "its budget" };

function sections(task, growing, decisions, close) {
  const { key, agent, action, status, depends_on: needs, timeline, output, error, attempts, input } = task;
  const times = [["waited", timeline.queue_ms], ["backoff", timeline.backoff_ms], ["ran", timeline.run_ms]];
  const facts = [`${agent} · ${action}`, ...times.filter(([, ms]) => ms > 0).map(([name, ms]) => `${name} ${took(ms)}`)];
  if (needs.length > 0) facts.push(`needs ${needs.join(", ")}`);
  const { kind, until } = task.waits_for ?? {};
  if (kind) facts.push(`waits for ${WAIT_WORDS[kind] ?? kind}${until ? ` until ${new Date(until).toLocaleString()}` : ""}`);
  return [
    el(
      "header",
      { class: "head" },
      el("h3", { id: "task-name" }, el("code", {}, key)),
      badge(status),
      el("button", { type: "button", class: "plain", on: { click: close } }, "Close"),
    ),
    el("p", { class: "small" }, facts.join(" · ")),
    error && failure(error),
    ...decisions,
    growing && part("Output so far", growing),
    output && part("Output", outputView(output)),
    part("Input", preview(JSON.stringify(input, null, 2), { label: "Input", limit: 1000 })),
    attempts.length > 0 && part(attempts.length === 1 ? "1 attempt" : `${attempts.length} attempts`, el("ol", { class: "attempt-list" }, ...attempts.map((attempt, index) => attemptView(attempt, LOSSES[lostDuring(attempt, attempts[index + 1])])))),
  ].filter(Boolean);
}

const part = (title, body) => el("div", { class: "part" }, el("h4", { class: "quiet" }, title), body);

/** Characters of a standard error that is shown without being asked for. */
const SHORT = 400;

/** An error with its facts. */
export function failure({ code, message, details }) {
  const { stderr, ...facts } = details ?? {};
  const rows = Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  return el(
    "div",
    { class: "failure", role: "group", "aria-label": "Error" },
    el("p", {}, el("code", { class: "code" }, code)),
    el("p", { class: "why" }, ...sentence(message)),
    rows.length > 0 && el("dl", {}, ...rows),
    stderr && el("details", { open: stderr.length <= SHORT }, el("summary", {}, "stderr of the agent"), el("pre", { tabindex: "0" }, stderr)),
  );
}

function outputView({ data, output_type: type, metadata, truncated, size, link }) {
  const text = typeof data === "string" ? data : JSON.stringify(data, null, 2);
  const facts = Object.keys(metadata ?? {}).length > 0;
  return el(
    "div",
    { class: "stack" },
    preview(text, { label: "Output" }),
    truncated && wholeButton(link, `Download all ${bytes(size)}`, "output.json"),
    facts && el("details", {}, el("summary", { class: "small" }, `Metadata (${type})`), preview(JSON.stringify(metadata, null, 2), { label: "Metadata" })),
  );
}

function wholeButton(path, text, name) {
  const button = el("button", { type: "button", class: "plain" }, text);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const url = URL.createObjectURL(await download(path));
      el("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      button.textContent = error.message;
      announce(error.message);
    }
    button.disabled = false;
  });
  return button;
}

/** Why an attempt was cancelled that another one followed, where its record does not say. */
const LOSSES = {
  executor: "The executor was lost: it ended, or the connection to it broke. The task was dispatched again.",
  planner: "The planner of the plan stopped or died. Another one took the plan over, and the task was dispatched again.",
};

function attemptView({ number, started_at: from, ended_at: to, outcome, error_class: kind, message, worker, stderr_tail: stderr, usage, truncated, size, link }, loss) {
  const facts = [clock(from), to && took(millis(to) - millis(from)), worker, usageText(usage)].filter(Boolean);
  return el(
    "li",
    { data: { status: outcome ?? "in_progress" } },
    el("p", {}, el("strong", {}, `Attempt ${number}`), badge(outcome ?? "running"), kind && el("code", {}, kind)),
    el("p", { class: "small" }, facts.join(" · ")),
    message && el("p", { class: "why" }, ...sentence(message)),
    !message && loss && el("p", { class: "why" }, loss),
    stderr && el("details", {}, el("summary", { class: "small" }, "stderr"), preview(stderr, { label: `stderr of attempt ${number}` })),
    stderr && truncated && wholeButton(link, `Download all ${bytes(size)} of stderr`, "stderr.txt"),
  );
}
