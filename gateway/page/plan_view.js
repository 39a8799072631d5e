// A plan: its tasks on a time axis, as a graph, its events, and the task that is selected.

import { serverNow } from "./api.js";
import { limitsText } from "./approval.js";
import { announce, copyable, el, preview, sentence } from "./dom.js";
import { eventList } from "./event_list.js";
import { badge, millis, moment, took, usageText, words } from "./format.js";
import { graph } from "./graph.js";
import { planActions } from "./plan_actions.js";
import { follow } from "./plan_feed.js";
import { setQuery } from "./router.js";
import { tabs } from "./tabs.js";
import { failure, taskPanel } from "./task_panel.js";
import { waterfall } from "./waterfall.js";

export function open(root, { parameters: [id], query, signal }) {
  const problem = el("p", { class: "card notice", role: "status", hidden: true });
  const head = planHead(id);
  const body = el("div", { class: "plan-body", hidden: true });
  root.append(head.node, problem, body);
  /** Events that arrive before the plan. */
  const early = [];
  let parts = null;
  let plan = null;
  let selected = query.get("task") ?? "";

  const select = (key, { scroll = false } = {}) => {
    selected = key;
    setQuery({ task: key });
    parts.waterfall.select(key, scroll);
    parts.graph.select(key);
    showTask();
    if (key) announce(`Details of task ${key}`);
  };
  const feed = follow(id, {
    signal,
    onPlan: (next) => {
      const isFirst = plan === null;
      if (!isFirst && plan.status !== next.status) announce(`The plan is ${words(next.status)}`);
      plan = next;
      parts ??= build();
      render();
      if (isFirst && selected) select(selected, { scroll: true });
      else if (isFirst && plan.tasks.length === 1) select(plan.tasks[0].key);
    },
    onEvent: (event) => {
      parts ? parts.events.add(event) : early.push(event);
    },
    onOutput: () => showTask(),
    onProblem: (error) => {
      problem.hidden = error === null || error.status === 401;
      if (error) problem.replaceChildren(...sentence(error.message), ` (${error.code})`);
    },
  });
  const build = () => {
    const choose = (key) => select(key);
    const made = {
      waterfall: waterfall(choose),
      graph: graph(choose),
      events: eventList(millis(plan.created_at)),
      task: taskPanel(plan.plan_id, { live: feed.said, close: () => select(""), refresh: feed.refresh }),
    };
    early.forEach(made.events.add);
    const panels = { timeline: ["Timeline", made.waterfall.node], graph: ["Graph", made.graph.node], events: ["Events", made.events.node] };
    body.append(el("div", { class: "card" }, tabs("Views of the plan", panels, query.get("view"), (view) => setQuery({ view }))), made.task.node);
    body.hidden = false;
    return made;
  };
  const render = () => {
    head.update(plan, feed.refresh);
    parts.waterfall.update(plan, millis(plan.created_at), serverNow());
    parts.graph.update(plan);
    showTask();
  };
  const showTask = () => parts?.task.show(plan.tasks.find(({ key }) => key === selected));
  const clock = setInterval(() => {
    if (plan && plan.ended_at === null && !document.hidden) {
      head.tick(plan);
      parts.waterfall.update(plan, millis(plan.created_at), serverNow());
    }
  }, 1000);
  signal.addEventListener("abort", () => clearInterval(clock));
}

/** State, times, ids and actions of a plan. */
function planHead(id) {
  const state = el("span");
  const actions = el("div", { class: "row actions" });
  const lead = el("p", { class: "small" });
  const facts = el("div", { class: "plan-facts" });
  const result = el("div");
  let shown = "";
  const tick = (plan) => {
    const from = millis(plan.created_at);
    const end = millis(plan.ended_at);
    const counts = Object.entries(Object.groupBy(plan.tasks, ({ status }) => status)).map(([status, tasks]) => `${tasks.length} ${words(status)}`);
    const tasks = plan.tasks.length === 1 ? "1 task" : `${plan.tasks.length} tasks`;
    lead.textContent = [end ? `took ${took(end - from)}` : `for ${took(serverNow() - from)}`, `${tasks}: ${counts.join(", ")}`, usageText(plan.usage)]
      .filter(Boolean)
      .join(" · ");
  };
  const update = (plan, refresh) => {
    tick(plan);
    const next = JSON.stringify([plan.status, plan.redriven_as, plan.deadline_at]);
    if (next === shown) return;
    shown = next;
    state.replaceChildren(badge(plan.status));
    actions.replaceChildren(...planActions(plan, refresh));
    facts.replaceChildren(...factsOf(plan));
    result.replaceChildren(...[plan.error && failure(plan.error), plan.output !== null && outputOf(plan)].filter(Boolean));
  };
  const node = el(
    "header",
    { class: "plan-head" },
    el("nav", { class: "small", "aria-label": "Path" }, el("a", { href: "/plans" }, "Plans"), " / ", el("code", {}, id)),
    el("div", { class: "head" }, el("h2", {}, "Plan"), state, actions),
    lead,
    facts,
    result,
  );
  return { node, update, tick };
}

function factsOf(plan) {
  const { plan_id: id, correlation_id: correlation, created_at: from, ended_at: to, deadline_at: deadline, budget } = plan;
  const link = (other) => el("a", { href: `/plans/${other}` }, el("code", {}, other));
  const rows = [
    ["Accepted", moment(from)],
    to && ["Ended", moment(to)],
    deadline && ["Deadline", el("span", {}, moment(deadline), hasNoTimeLeft(plan) && ": no time was left")],
    plan.redrive_of && ["Redrives", link(plan.redrive_of)],
    plan.redriven_as && ["Redriven as", link(plan.redriven_as)],
    budget && ["Budget", limitsText(budget)],
    ["Request", el("a", { href: `/plans?correlation_id=${correlation}` }, "all its plans")],
  ].filter(Boolean);
  return [
    el("div", { class: "ids" }, copyable("Plan id", id), copyable("Correlation id", correlation)),
    el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
  ];
}

/** The executor keeps a part of the time for the way of its answer, so that a task ends a moment before the deadline. */
const hasNoTimeLeft = ({ error, ended_at: to, deadline_at: deadline }) => error?.code === "timeout" && millis(to) > millis(deadline) - 250;

function outputOf({ output, truncated }) {
  return el("details", { class: "result" }, el("summary", {}, truncated ? "Output (its beginning)" : "Output"), preview(output, { label: "Output of the plan" }));
}
