// The tasks of a plan on a time axis.

import { el } from "./dom.js";
import { took, words } from "./format.js";
import { listbox } from "./listbox.js";
import { WAITS, hasEnded, phasesOf } from "./phases.js";

const ATTEMPTS = { running: "attempt runs", succeeded: "attempt succeeded", failed: "attempt failed", cancelled: "attempt cancelled" };

/** A waterfall. `choose` gets the key of a selected task. */
export function waterfall(choose) {
  const axis = el("div", { class: "axis", "aria-hidden": "true" });
  const list = el("div", { class: "bars" });
  const legend = el("ul", { class: "legend small" });
  const rows = new Map();
  let order = [];
  let scale = { from: 0, to: 1 };
  let rounds = [];
  const box = listbox(list, {
    label: "Tasks in their order",
    count: () => order.length,
    reveal: (index, scroll) => {
      const { node } = rows.get(order[index]);
      if (scroll) node.scrollIntoView({ block: "nearest" });
      return node;
    },
    choose: (index) => choose(order[index]),
  });
  const update = (plan, from, now) => {
    const until = plan.ended_at ? Date.parse(plan.ended_at) : now;
    const next = fit(from, until, scale, Boolean(plan.ended_at));
    const isMoved = next.from !== scale.from || next.to !== scale.to;
    scale = next;
    if (isMoved) axis.replaceChildren(...ticks(scale));
    const ends = new Map(plan.tasks.filter(hasEnded).map((task) => [task.key, Date.parse(task.ended_at)]));
    const kinds = new Set();
    if (rounds.length !== plan.tasks.length) rounds = roundsOf(plan.tasks);
    plan.tasks.forEach((task, index) => {
      let row = rows.get(task.key);
      if (!row) {
        row = taskRow(task, index, rounds[index]);
        rows.set(task.key, row);
        if (rounds[index] !== (rounds[index - 1] ?? 0)) list.append(el("div", { class: "round small", role: "presentation" }, `Round ${rounds[index]}`));
        list.append(row.node);
      }
      row.update(task, ends, scale, Math.min(now, until), isMoved).forEach((kind) => kinds.add(kind));
    });
    order = plan.tasks.map((task) => task.key);
    showLegend(legend, kinds);
  };
  return {
    node: el("div", { class: "waterfall" }, legend, el("div", { class: "scroll" }, axis, list)),
    update,
    select: (key, scroll) => box.mark(order.indexOf(key), { scroll }),
  };
}

/** Keeps a scale while a plan grows into it, so that rows that have ended need no change. */
function fit(from, until, { from: before, to }, isFinal) {
  const needed = Math.max(1, until - from);
  if (isFinal) return { from, to: from + needed };
  const isEnough = before === from && to >= until;
  return isEnough ? { from, to } : { from, to: from + Math.max(1000, needed * 1.25) };
}

function ticks({ from, to }) {
  const step = niceStep((to - from) / 5);
  const count = Math.floor((to - from) / step);
  return Array.from({ length: count + 1 }, (_, index) => {
    const tick = el("span", {}, index === 0 ? "0" : took(index * step));
    tick.style.left = `${(index * step * 100) / (to - from)}%`;
    if ((index * step) / (to - from) > 0.85) tick.className = "last";
    return tick;
  });
}

const STEPS = [1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 86_400_000];

function niceStep(wanted) {
  if (wanted < 1000) {
    const power = 10 ** Math.floor(Math.log10(Math.max(wanted, 1)));
    return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= wanted);
  }
  return STEPS.find((step) => step >= wanted) ?? Math.ceil(wanted / 86_400_000) * 86_400_000;
}

const PLANNING_KEY = "planning-";

/**
 * The round of each task of a plan that a language model plans, from 1; zeros for another plan. A round is the questions to the model,
 * and the tasks that it has proposed.
 */
function roundsOf(tasks) {
  const isQuestion = (task) => task?.key.startsWith(PLANNING_KEY) ?? false;
  let round = 0;
  const isPlanned = isQuestion(tasks[0]);
  return tasks.map((task, index) => {
    if (isPlanned && isQuestion(task) && !isQuestion(tasks[index - 1])) round += 1;
    return round;
  });
}

function taskRow({ key, agent }, index, round) {
  const state = el("span", { class: "dot" });
  const track = el("span", { class: "track" });
  const node = el(
    "div",
    { class: "bar-row", role: "option", id: `task-${index}`, "aria-selected": "false", data: { index } },
    el("span", { class: "bar-name" }, state, el("span", { class: "bar-key" }, key), el("span", { class: "small" }, agent)),
    track,
  );
  let shown = "";
  let kinds = [];
  const update = (task, ends, scale, now, isMoved) => {
    const signature = `${task.status} ${task.attempts.length} ${task.ended_at}`;
    if (signature === shown && !isMoved && hasEnded(task)) return kinds;
    shown = signature;
    const phases = phasesOf(task, ends, now);
    kinds = [...new Set(phases.map(({ kind }) => kind))];
    node.dataset.status = task.status;
    node.setAttribute("aria-label", spoken(task, phases, round));
    track.replaceChildren(...phases.map((phase) => bar(phase, scale)));
    return kinds;
  };
  return { node, update };
}

function bar({ kind, from, to, attempt }, scale) {
  const whole = scale.to - scale.from;
  const part = el("span", { class: "phase", data: { kind } });
  const name = attempt ? `attempt ${attempt.number}: ${kind}${attempt.error_class ? ` (${attempt.error_class})` : ""}` : WAITS[kind];
  part.title = `${name}, ${took(to - from)}`;
  part.style.left = `${((from - scale.from) * 100) / whole}%`;
  part.style.width = `${((to - from) * 100) / whole}%`;
  return part;
}

function spoken(task, phases, round) {
  const waits = phases.filter(({ attempt }) => !attempt).map(({ kind, from, to }) => `${WAITS[kind]} ${took(to - from)}`);
  const runs = phases.filter(({ attempt }) => attempt).map(({ kind, from, to }) => `${kind} attempt ${took(to - from)}`);
  return [task.key, ...(round > 0 ? [`round ${round}`] : []), task.agent, words(task.status), ...waits, ...runs].join(", ");
}

function showLegend(legend, kinds) {
  const names = { ...WAITS, ...ATTEMPTS };
  const shown = Object.keys(names).filter((kind) => kinds.has(kind));
  if (legend.dataset.kinds === shown.join()) return;
  legend.dataset.kinds = shown.join();
  legend.replaceChildren(...shown.map((kind) => el("li", {}, el("span", { class: "phase", data: { kind } }), names[kind])));
}
