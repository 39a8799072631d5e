// What a task waits or waited for, an approval of its input or a larger budget, and the decision about it.

import { call } from "./api.js";
import { confirmed, reasonField } from "./dialog.js";
import { announce, el, preview, sentence } from "./dom.js";
import { moment, money, short, took, words } from "./format.js";
import { button } from "./plan_actions.js";
import { field } from "./plans.js";
import { argumentsOf, questionForm, questionsOf } from "./questions.js";

/** Limits of a budget: the name of a new one, and how an amount is shown. */
const LIMITS = {
  max_cost_usd: { name: "US dollars", show: money, step: "any" },
  max_tokens: { name: "tokens", show: (count) => `${short(count)} tokens`, step: "1" },
  max_calls: { name: "calls", show: (count) => (count === 1 ? "1 call" : `${short(count)} calls`), step: "1" },
  max_wall_ms: { name: "milliseconds of attempts", show: (ms) => `${took(ms)} of attempts`, step: "1" },
};

/** The approval or, of the kind `budget`, the pause of `task` in the plan `id`. `decided` is called after a decision. */
export function approvalView(id, task, kind, decided) {
  const approval = kind === "budget" ? task.pause : task.approval;
  const { state, requested_at: asked, expires_at: expires, on_expiry: then, reason, approver, decision, input, input_hash: hash } = approval;
  const isBudget = kind === "budget";
  const rows = [
    ["State", words(state)],
    ["Asked", moment(asked)],
    ...(isBudget ? budgetFacts(input) : []),
    decision === null && ["Expires", el("span", {}, moment(expires), `, then: ${words(then)}`)],
    approver && ["Approver", approver],
    decision && ["Decided", moment(decision.at)],
    decision?.actor && ["By", decision.actor],
    decision?.reason && ["Reason", decision.reason],
  ].filter(Boolean);
  const isOpen = decision === null && ["awaiting_approval", "awaiting_budget"].includes(task.status);
  return el(
    "div",
    { class: "stack" },
    reason && el("p", { class: "why" }, ...sentence(reason)),
    el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    input && !isBudget && preview(JSON.stringify(argumentsOf(input), null, 2), { label: "Input to approve", limit: 2000 }),
    decision?.input && preview(JSON.stringify(argumentsOf(decision.input), null, 2), { label: isBudget ? "New limits" : "Input of the decision", limit: 2000 }),
    isOpen && decisionButtons({ plan: id, task: task.key, kind, hash, input, decided }),
  );
}

/** Limits of a plan in one line. */
export function limitsText(budget) {
  const limits = Object.entries(budget).filter(([name, value]) => value !== null && value !== undefined && LIMITS[name]);
  return `at most ${limits.map(([name, value]) => LIMITS[name].show(value)).join(", ")}`;
}

/** Which limit is reached, as names with values. `input` is that of a pause; null when it is not known. */
export function budgetFacts(input) {
  const { budget = "", limit, limit_value: most, used, reserved, resets_at: resets } = input ?? {};
  const { show = String } = LIMITS[limit] ?? {};
  const [scope, name] = [budget.slice(0, budget.indexOf("/")), budget.slice(budget.indexOf("/") + 1)];
  const amount = (value) => (typeof value === "number" ? show(value) : String(value));
  return [
    scope && ["Budget", scope === "plan" ? "of the plan" : `of the ${scope} ${name}, per day`],
    most !== undefined && ["Limit", amount(most)],
    used !== undefined && ["Used", amount(used)],
    reserved !== undefined && reserved !== 0 && ["Reserved", amount(reserved)],
    resets && ["Begins anew", moment(resets)],
  ].filter(Boolean);
}

/** The name that the last decision gave, while the page is open. */
let lastActor = "";

/** Buttons that decide about what `task` of `plan` waits for. `input` is what it waits with, null when that is not known. */
export function decisionButtons({ plan, task, kind, hash, input, decided }) {
  const questions = kind === "budget" ? budgetQuestions(task, input) : inputQuestions(task, input);
  const buttons = questions.map((choice) =>
    button(choice.button, async () => {
      const { verb, done, fields = [], more, ...question } = await withForm(choice, { plan, task, kind, input });
      const actorField = el("input", { name: "actor", maxlength: "128", required: true, autocomplete: "name", value: lastActor });
      const result = await confirmed({
        ...question,
        isDangerous: verb === "reject",
        fields: [...fields.map((make) => make()), field("Your name", actorField), reasonField()],
        act: ({ actor, reason, ...values }) => {
          lastActor = actor;
          // The hash makes sure that the decision is about what was shown.
          const body = { task, actor, input_hash: hash, ...(reason && { reason }), ...more?.(values) };
          return call(`/api/v1/plans/${plan}:${verb}`, { method: "POST", body });
        },
      });
      if (!result) return;
      announce(`${task} is ${done}`);
      decided();
    }, `${choice.button}: ${task}`),
  );
  return el("div", { class: "row" }, ...buttons);
}

const answering = (task) => ({ verb: "approve", done: "answered", title: `Answer ${task}?`, text: "The task continues with the answers.", button: "Answer" });

const inputQuestions = (task, input) => [
  questionsOf(input).length > 0
    ? answering(task)
    : { verb: "approve", done: "approved", title: `Approve ${task}?`, text: "The task runs with the input that is shown.", button: "Approve" },
  { verb: "reject", done: "rejected", title: `Reject ${task}?`, text: "The task ends without running.", button: "Reject" },
];

/** `choice` with a form for the questions that the task waits with. They are read where only the beginning of the input is known. */
async function withForm(choice, { plan, task, kind, input }) {
  if (kind === "budget" || choice.verb !== "approve") return choice;
  const questions = questionsOf(input ?? (await inputOf(plan, task)));
  if (questions.length === 0) return choice;
  const { nodes, read } = questionForm(questions);
  return { ...answering(task), fields: nodes.map((node) => () => node), more: () => ({ input: read() }) };
}

async function inputOf(plan, key) {
  const { tasks } = await call(`/api/v1/plans/${plan}`);
  return tasks.find((task) => task.key === key)?.approval?.input ?? null;
}

function budgetQuestions(task, input) {
  const { budget = "", limit, limit_value: most } = input ?? {};
  const end = { verb: "reject", done: "ended", title: `End ${task}?`, text: "The task fails with budget_exhausted, and is a dead letter.", button: "End the task" };
  const known = LIMITS[limit];
  if (!budget.startsWith("plan/") || !known || typeof most !== "number") {
    const text = "The task looks at its budget again, and waits again if that is still used up. A larger budget of a day is set in the configuration.";
    return [{ verb: "approve", done: "continued", title: `Let ${task} look again?`, text, button: "Look again" }, end];
  }
  const larger = () =>
    field(
      `New limit of the plan: ${known.name}`,
      el("input", { name: "limit", type: "number", step: known.step, min: known.step === "1" ? most + 1 : most, value: most * 2 || 1, required: true, inputmode: "decimal" }),
    );
  const raise = {
    verb: "approve",
    done: "continued",
    title: `Raise the budget for ${task}?`,
    text: `The plan may use more than ${known.show(most)}, and the task runs.`,
    button: "Raise the budget",
    fields: [larger],
    more: (values) => ({ budget: { [limit]: Number(values.limit) } }),
  };
  return [raise, end];
}
