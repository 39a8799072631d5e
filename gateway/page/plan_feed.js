// What happens in a plan, live: its events, what its running tasks say, and the plan as it is.

import { ApiError, call, events } from "./api.js";
import { repeat } from "./router.js";

const RETRY_AFTER = 1000;
const RETRY_AT_MOST = 15_000;
/** A large plan is read less often. */
const REFRESH_FACTOR = 5;
const REFRESH_EVERY = 400;
const REFRESH_ANYWAY = 15_000;
const KEPT_OUTPUT = 65_536;

/**
 * Follows a plan until `signal`. `onPlan` gets the plan after each change, `onEvent` each journaled event, `onOutput` is called
 * when a task says something, `onProblem` gets an error that repeats, or null when it is over.
 */
export function follow(id, { signal, onPlan, onEvent, onOutput, onProblem }) {
  const said = new Map();
  let position = "";
  let hasEnded = false;
  let timer = null;
  let cost = 0;

  const read = async () => {
    const begun = performance.now();
    try {
      const plan = await call(`/api/v1/plans/${encodeURIComponent(id)}`, { signal });
      hasEnded = plan.ended_at !== null;
      onPlan(plan);
      onProblem(null);
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!(error instanceof ApiError)) throw error;
      onProblem(error);
    }
    cost = performance.now() - begun;
    return hasEnded ? Infinity : undefined;
  };
  const refresh = () => {
    timer ??= setTimeout(async () => {
      await read();
      timer = null;
    }, Math.max(REFRESH_EVERY, cost * REFRESH_FACTOR));
  };
  signal.addEventListener("abort", () => clearTimeout(timer));

  const take = ({ event, id: at, data }) => {
    if (at) {
      position = at;
      onEvent(data);
      refresh();
      return;
    }
    if (event === "output") said.set(data.task_key, ((said.get(data.task_key) ?? "") + (data.data.text ?? "")).slice(-KEPT_OUTPUT));
    if (event === "output_reset") said.set(data.task_key, "");
    onOutput();
  };
  const listen = async () => {
    let wait = RETRY_AFTER;
    while (!signal.aborted) {
      try {
        said.clear();
        const path = `/api/v1/plans/${encodeURIComponent(id)}/events${position && `?last_event_id=${position}`}`;
        for await (const event of events(path, { signal })) {
          wait = RETRY_AFTER;
          take(event);
        }
        await read();
        if (hasEnded) return;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError)) throw error;
        // A missing plan stays missing; a token that is asked for opens the view again.
        if ([400, 401, 404].includes(error.status)) return;
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(wait * 2, RETRY_AT_MOST);
    }
  };
  // Waits that change no event, such as those of a plan that another planner takes over.
  repeat(async () => (hasEnded ? Infinity : read()), REFRESH_ANYWAY, signal);
  listen();
  return { said: (key) => said.get(key) ?? "", refresh: read };
}
