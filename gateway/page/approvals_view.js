// Tasks of all plans that wait for a decision, oldest first: approvals, and budgets that are used up.

import { call, serverNow } from "./api.js";
import { budgetFacts, decisionButtons } from "./approval.js";
import { el, outdated, preview, sentence, span } from "./dom.js";
import { badge, millis, moment, words } from "./format.js";
import { parseJson } from "./json.js";
import { argumentsOf, questionsOf } from "./questions.js";
import { repeat } from "./router.js";

const POLL_EVERY = 2000;
const STEP = 50;
const MOST = 500;

export function open(root, { signal }) {
  const problem = el("p", { class: "card notice", role: "status", hidden: true });
  const count = el("p", { class: "small", role: "status" }, "loading…");
  const items = el("ol", { class: "card rows approvals", hidden: true });
  const empty = el("p", { class: "small", hidden: true }, "No task waits for a decision.");
  const more = el("button", { type: "button", class: "plain", hidden: true }, "Show more");
  const rows = new Map();
  let size = STEP;
  const tick = () => rows.forEach((row) => row.tick());
  const show = ({ approvals, next_page_token: next }) => {
    problem.hidden = true;
    const shown = approvals.map((waiting) => {
      // A task that waits again is another row.
      const id = `${waiting.plan_id}/${waiting.task}/${waiting.requested_at}`;
      return [id, rows.get(id) ?? waitingRow(waiting, refresh)];
    });
    const isSame = shown.length === rows.size && shown.every(([id]) => rows.has(id));
    rows.clear();
    shown.forEach(([id, row]) => rows.set(id, row));
    // Rows stay as they are, so that what a reader has opened stays open.
    if (!isSame) items.replaceChildren(...shown.map(([, { node }]) => node));
    items.hidden = approvals.length === 0;
    empty.hidden = approvals.length > 0;
    more.hidden = !next || size >= MOST;
    const oldest = approvals.length > 0 ? `, the oldest for ${age(approvals[0])}` : "";
    const text = `${approvals.length}${next ? " oldest" : ""} waiting${oldest}`;
    if (count.textContent !== text) count.textContent = text;
    tick();
  };
  const refresh = repeat(async () => {
    try {
      show(await call(`/api/v1/approvals?page_size=${size}`, { signal }));
    } catch (error) {
      if (!signal.aborted) outdated(error, problem, count);
    }
  }, POLL_EVERY, signal);
  more.addEventListener("click", () => {
    size = Math.min(MOST, size + 2 * STEP);
    refresh();
  });
  const clock = setInterval(tick, 1000);
  signal.addEventListener("abort", () => clearInterval(clock));
  root.append(el("header", { class: "head" }, el("h2", {}, "Approvals"), count), problem, el("div", { class: "listing" }, items, empty, more));
}

const age = ({ requested_at: asked }) => span(serverNow() - millis(asked));

function waitingRow(waiting, decided) {
  const { kind, plan_id: plan, task, agent, action, expires_at: expires, on_expiry: then, reason, approver, input_preview: text, input_hash: hash } = waiting;
  const isBudget = kind === "budget";
  const input = parsed(text);
  const waits = el("span", { class: "small row-times", title: waiting.requested_at });
  const facts = [
    ...(isBudget ? budgetFacts(input) : []),
    approver && ["Approver", approver],
    ["Expires", el("span", {}, moment(expires), `, then: ${isBudget ? "the task ends" : words(then)}`)],
  ].filter(Boolean);
  const node = el(
    "li",
    {},
    el("p", { class: "waiting-head" }, badge(isBudget ? "budget" : "approval"), el("strong", {}, task), el("span", { class: "small" }, `${agent} · ${action}`), waits),
    reason && el("p", { class: "why" }, ...sentence(reason)),
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    !isBudget && preview(shownInput(text, input), { label: `Input of ${task}` }),
    el("div", { class: "row waiting-foot" }, decisionButtons({ plan, task, kind, hash, input, decided }), el("a", { class: "small", href: `/plans/${plan}?task=${encodeURIComponent(task)}` }, "Open the task in its plan")),
  );
  const tick = () => {
    const now = `waits for ${age(waiting)}`;
    if (waits.textContent !== now) waits.textContent = now;
  };
  return { node, tick };
}

/** The input as text: as it is where a number would lose digits, and a beginning with an ellipsis. */
function shownInput(text, input) {
  if (input === null) return `${text}…`;
  if (questionsOf(input).length > 0) return JSON.stringify(argumentsOf(input), null, 2);
  return JSON.stringify(input) === text ? JSON.stringify(input, null, 2) : text;
}

/** The input, unless it is only its beginning. */
function parsed(text) {
  try {
    return parseJson(text);
  } catch {
    return null;
  }
}
