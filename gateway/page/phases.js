// What a task did when: waits by their kind, and attempts.

import { millis } from "./format.js";

/** Kinds of waits, in the order of the legend, with what they mean. */
export const WAITS = {
  dependencies: "waits for other tasks",
  queue: "waits for a place at its agent",
  approval: "waits for an approval",
  timer: "waits for the time at which it may start",
  budget: "waits for a budget",
  backoff: "waits before the next attempt",
  redispatch: "waits for an executor after the loss of its own",
  takeover: "waits for another planner after the end of its own",
};

const NUMBERS_PER_PLANNER = 100;
const ENDED = ["succeeded", "dead_lettered", "cancelled"];

/** Whether a task has ended. */
export const hasEnded = (task) => ENDED.includes(task.status);

/** The phases of `task` up to `now`: `{ kind, from, to, attempt }`, in their order. `ends` has the end of each task by key. */
export function phasesOf(task, ends, now) {
  const queued = millis(task.queued_at);
  const until = millis(task.ended_at) ?? now;
  const found = [];
  const add = (kind, from, to, attempt = null) => {
    if (attempt || to > from) found.push({ kind, from, to: Math.max(from, to), attempt });
  };
  const first = task.attempts.length > 0 ? millis(task.attempts[0].started_at) : until;
  const needed = Math.max(queued, ...task.depends_on.map((key) => ends.get(key) ?? now));
  // An approval is asked for when nothing else is missing.
  const ready = Math.min(needed, first, millis(task.approval?.requested_at) ?? first);
  add("dependencies", queued, ready);
  addWaits(add, task, ready, first);
  task.attempts.forEach((attempt, index) => {
    const [from, to] = [millis(attempt.started_at), millis(attempt.ended_at) ?? until];
    add(attempt.outcome ?? "running", from, to, attempt);
    const next = task.attempts[index + 1];
    if (next) add(waitBetween(attempt, next), to, millis(next.started_at));
    else if (!hasEnded(task) && attempt.ended_at) add(task.status === "retried" ? "backoff" : lastWait(task), to, until);
  });
  return found;
}

/** The waits before the first attempt: for an approval, then for the time at which the task may start, then for the rest. */
function addWaits(add, task, from, to) {
  const asked = millis(task.approval?.requested_at);
  let since = from;
  if (asked !== null) {
    const decided = Math.min(millis(task.approval.decision?.at) ?? to, to);
    add("queue", since, asked);
    add("approval", Math.max(since, asked), decided);
    since = Math.max(since, decided);
  }
  const start = Math.min(millis(task.not_before) ?? since, to);
  add("timer", since, start);
  add(lastWait(task), Math.max(since, start), to);
}

/** What a task that has not started waits for last. */
const lastWait = (task) => (task.status === "awaiting_budget" ? "budget" : "queue");

/** What was lost during `attempt`, if another one follows it: `planner` or `executor`; null when it ended otherwise. */
export function lostDuring(attempt, next) {
  if (!next || attempt.outcome !== "cancelled") return null;
  // Each planner numbers attempts in a range of its own.
  const planner = ({ number }) => Math.floor((number - 1) / NUMBERS_PER_PLANNER);
  return planner(attempt) === planner(next) ? "executor" : "planner";
}

function waitBetween(attempt, next) {
  return { planner: "takeover", executor: "redispatch" }[lostDuring(attempt, next)] ?? "backoff";
}
