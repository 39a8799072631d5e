// Cancel and redrive of a plan.

import { call } from "./api.js";
import { InputError, confirmed, reasonField } from "./dialog.js";
import { announce, el } from "./dom.js";
import { parseJson } from "./json.js";
import { navigate } from "./router.js";

/** Buttons for what can be done with `plan` now. */
export function planActions(plan, refresh) {
  if (plan.ended_at === null) return [button("Cancel plan", () => cancel(plan, refresh))];
  if (plan.status !== "succeeded" && plan.redriven_as === null) return [button("Redrive", () => redrive(plan))];
  return [];
}

/** A button; `label` is its name for screen readers where `text` alone does not say what it is about. */
export const button = (text, act, label = null) => el("button", { type: "button", class: "plain", "aria-label": label, on: { click: act } }, text);

async function cancel({ plan_id: id }, refresh) {
  const act = ({ reason }) => call(`/api/v1/plans/${id}:cancel`, { method: "POST", body: reason ? { reason } : {} });
  const question = {
    title: "Cancel this plan?",
    text: "Queued tasks never start, and running agents are killed.",
    button: "Cancel plan",
    isDangerous: true,
    fields: [reasonField()],
    act,
  };
  if (!(await confirmed(question))) return;
  announce("The plan is cancelled");
  refresh();
}

async function redrive(plan) {
  const open = plan.tasks.filter(({ status }) => status !== "succeeded");
  const inputs = open.map(({ key, input }) =>
    el(
      "details",
      {},
      el("summary", {}, "New input of ", el("code", {}, key)),
      el("textarea", { name: `input:${key}`, rows: "6", spellcheck: "false", "aria-label": `Input of ${key}`, class: "mono" }, JSON.stringify(input, null, 2)),
    ),
  );
  const before = new Map(open.map(({ key, input }) => [key, JSON.stringify(input)]));
  const act = ({ reason, ...fields }) => {
    const body = reason ? { reason, input: {} } : { input: {} };
    for (const [name, text] of Object.entries(fields)) {
      const key = name.slice("input:".length);
      const input = parsed(key, text);
      if (JSON.stringify(input) !== before.get(key)) body.input[key] = input;
    }
    return call(`/api/v1/plans/${plan.plan_id}:redrive`, { method: "POST", body, headers: { Prefer: "respond-async" } });
  };
  const question = {
    title: "Redrive this plan?",
    text: "A new plan keeps the outputs of tasks that have succeeded and runs the others again.",
    button: "Redrive",
    fields: [reasonField(), ...inputs],
    act,
  };
  const accepted = await confirmed(question);
  if (accepted) navigate(`/plans/${accepted.plan_id}`);
}

function parsed(key, text) {
  let input;
  try {
    input = parseJson(text);
  } catch (problem) {
    throw new InputError(`The input of \`${key}\` is not JSON: ${problem.message}.`);
  }
  if (input === null || typeof input !== "object" || Array.isArray(input)) throw new InputError(`The input of \`${key}\` must be a JSON object.`);
  return input;
}
