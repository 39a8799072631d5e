// The approval that a task waits or waited for, and the decision about it.

import { call } from "./api.js";
import { confirmed, reasonField } from "./dialog.js";
import { announce, el, preview, sentence } from "./dom.js";
import { moment, words } from "./format.js";
import { button } from "./plan_actions.js";
import { field } from "./plans.js";

/** The approval of `task` in the plan `id`. `decided` is called after a decision. */
export function approvalView(id, task, decided) {
  const { state, requested_at: asked, expires_at: expires, on_expiry: then, reason, approver, decision, input } = task.approval;
  const rows = [
    ["State", words(state)],
    ["Asked", moment(asked)],
    decision === null && ["Expires", el("span", {}, moment(expires), `, then: ${words(then)}`)],
    approver && ["Approver", approver],
    decision && ["Decided", moment(decision.at)],
    decision?.actor && ["By", decision.actor],
    decision?.reason && ["Reason", decision.reason],
  ].filter(Boolean);
  return el(
    "div",
    { class: "stack" },
    reason && el("p", { class: "why" }, ...sentence(reason)),
    el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    input && preview(JSON.stringify(input, null, 2), { label: "Input to approve", limit: 2000 }),
    decision?.input && preview(JSON.stringify(decision.input, null, 2), { label: "Input of the decision", limit: 2000 }),
    decision === null && task.status === "awaiting_approval" && el("div", { class: "row" }, ...["approve", "reject"].map((verb) => decide(id, task, verb, decided))),
  );
}

/** The name that the last decision gave, while the page is open. */
let lastActor = "";

function decide(id, { key, approval }, verb, decided) {
  const title = verb === "approve" ? "Approve" : "Reject";
  return button(title, async () => {
    const actorField = el("input", { name: "actor", maxlength: "128", required: true, autocomplete: "name", value: lastActor });
    const done = await confirmed({
      title: `${title} ${key}?`,
      text: verb === "approve" ? "The task runs with the input that is shown." : "The task ends without running.",
      button: title,
      isDangerous: verb === "reject",
      fields: [field("Your name", actorField), reasonField()],
      act: ({ actor, reason }) => {
        lastActor = actor;
        // The hash makes sure that the decision is about the input that was shown.
        const body = { task: key, actor, input_hash: approval.input_hash, ...(reason && { reason }) };
        return call(`/api/v1/plans/${id}:${verb}`, { method: "POST", body });
      },
    });
    if (!done) return;
    announce(`${key} is ${verb === "approve" ? "approved" : "rejected"}`);
    decided();
  });
}
