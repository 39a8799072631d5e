// Tasks that failed for good: filter, inspect, redrive one or many, discard.

import { call, serverNow } from "./api.js";
import { confirmed, reasonField } from "./dialog.js";
import { announce, el, outdated } from "./dom.js";
import { ago, badge, millis, moment } from "./format.js";
import { field, select } from "./plans.js";
import { repeat, setQuery } from "./router.js";
import { failure } from "./task_panel.js";

const POLL_EVERY = 5000;
const STEP = 50;
const MOST = 500;
const FILTERS = ["agent", "code", "error_class", "plan_id", "correlation_id"];
const CLASSES = ["timeout", "io", "backend_failure", "invalid_request", "action_not_supported"];

export function open(root, { query, signal }) {
  const filter = Object.fromEntries(["state", ...FILTERS].map((name) => [name, query.get(name) ?? ""]));
  filter.state ||= "open";
  const problem = el("p", { class: "card notice", role: "status", hidden: true });
  const count = el("p", { class: "small", role: "status" }, "loading…");
  const items = el("ol", { class: "card rows letters", hidden: true });
  const empty = el("p", { class: "small", hidden: true }, "No dead letter matches.");
  const more = el("button", { type: "button", class: "plain", hidden: true }, "Show more");
  const progress = el("div", { role: "status" });
  const buttons = el("div", { class: "row actions" });
  let size = STEP;
  let shown = "";
  const show = ({ dead_letters: letters, next_page_token: next }) => {
    problem.hidden = true;
    const now = JSON.stringify(letters.map(({ task_id: id, state }) => [id, state]));
    if (now !== shown) items.replaceChildren(...letters.map((letter) => letterRow(letter, many)));
    shown = now;
    items.hidden = letters.length === 0;
    empty.hidden = letters.length > 0;
    more.hidden = !next || size >= MOST;
    count.textContent = `${letters.length}${next ? " newest" : ""} ${filter.state}`;
    const isOpen = filter.state === "open" && letters.length > 0;
    if (isOpen !== buttons.hasChildNodes()) buttons.replaceChildren(...(isOpen ? bulkButtons(() => many) : []));
  };
  const refresh = repeat(async () => {
    const given = Object.entries(filter).filter(([, value]) => value !== "");
    try {
      show(await call(`/api/v1/dead-letters?${new URLSearchParams([...given, ["page_size", size]])}`, { signal }));
    } catch (error) {
      if (!signal.aborted) outdated(error, problem, count);
    }
  }, POLL_EVERY, signal);
  const chosen = () => Object.fromEntries(FILTERS.filter((name) => filter[name] !== "").map((name) => [name, filter[name]]));
  const many = {
    filter: chosen,
    redriven: (begun) => {
      progress.replaceChildren(sweep(begun, signal));
      refresh();
    },
    discarded: ({ discarded }) => {
      announce(`${discarded} discarded`);
      refresh();
    },
  };
  more.addEventListener("click", () => {
    size = Math.min(MOST, size + 2 * STEP);
    refresh();
  });
  const form = filters(filter, (changes) => {
    Object.assign(filter, changes);
    setQuery(changes);
    size = STEP;
    refresh();
  });
  root.append(el("header", { class: "head" }, el("h2", {}, "Dead letters"), count, buttons), form, progress, problem, el("div", { class: "listing" }, items, empty, more));
}

function filters(filter, change) {
  const text = (name, placeholder) => el("input", { name, value: filter[name], placeholder, spellcheck: "false", autocomplete: "off" });
  const form = el(
    "form",
    { class: "filters", role: "search", "aria-label": "Filter dead letters" },
    field("State", select("state", ["open", "redriven", "discarded"].map((state) => [state, state]), filter.state)),
    field("Agent", text("agent", "any agent")),
    field("Failure class", select("error_class", [["", "any class"], ...CLASSES.map((name) => [name, name])], filter.error_class)),
    field("Error code", text("code", "any code")),
    field("Correlation id", text("correlation_id", "UUID"), "wide"),
  );
  form.addEventListener("change", ({ target }) => change({ [target.name]: target.value.trim() }));
  form.addEventListener("submit", (event) => event.preventDefault());
  return form;
}

function letterRow(letter, many) {
  const { plan_id: plan, key, agent, action, error, attempts, dead_lettered_at: at, state, settled } = letter;
  const decision = settled && [
    `${state} `,
    moment(settled.at),
    settled.reason && ` because: ${settled.reason}`,
    settled.redriven_as && el("a", { href: `/plans/${settled.redriven_as}` }, " as a new plan"),
  ].filter(Boolean);
  const buttons = state === "open" && el("div", { class: "row" }, ...bulkButtons(() => many, letter));
  return el(
    "li",
    {},
    el(
      "details",
      {},
      el(
        "summary",
        {},
        badge(state),
        el("strong", {}, `${key} · ${agent}`),
        el("span", { class: "row-error" }, `${error.code}: ${error.message}`),
        el("span", { class: "small row-times" }, ago(millis(at), serverNow())),
      ),
      el(
        "div",
        { class: "letter" },
        el("p", { class: "small" }, `${action} · ${attempts === 1 ? "1 attempt" : `${attempts} attempts`} · `, moment(at)),
        failure(error),
        decision && el("p", { class: "small" }, ...decision),
        el("p", {}, el("a", { href: `/plans/${plan}?task=${encodeURIComponent(key)}` }, "Open the task in its plan")),
        buttons,
      ),
    ),
  );
}

/** Buttons for one dead letter, whose plan is redriven, or for all that match the filter. */
function bulkButtons(many, letter = null) {
  const body = () => ({ filter: letter ? { plan_id: letter.plan_id } : many().filter() });
  const what = letter ? `the plan of ${letter.key}` : "all that match";
  const ask = (title, text, button, fields, isDangerous, act, done) => async () => {
    const result = await confirmed({ title, text, button, fields, isDangerous, act });
    if (result) done(result);
  };
  const post = (verb) => ({ reason, rate }) => {
    const more = rate ? { rate_per_second: Number(rate) } : {};
    return call(`/api/v1/dead-letters:${verb}`, { method: "POST", body: { ...body(), ...more, ...(reason && { reason }) } });
  };
  const rate = field("Plans per second", el("input", { name: "rate", type: "number", min: "0.001", max: "1000", step: "any", value: "10" }));
  const redrive = ask(
    letter ? "Redrive this plan?" : "Redrive all that match?",
    "Each plan runs again as a new plan, which keeps the outputs of tasks that have succeeded.",
    "Redrive",
    letter ? [reasonField()] : [reasonField(), rate],
    false,
    post("redrive"),
    (begun) => many().redriven(begun),
  );
  const discard = ask(
    letter ? "Discard the dead letters of this plan?" : "Discard all that match?",
    "They count as handled. Plans and tasks stay as they are.",
    "Discard",
    [reasonField(true)],
    true,
    post("discard"),
    (done) => many().discarded(done),
  );
  const button = (text, act) => el("button", { type: "button", class: "plain", "aria-label": `${text} ${what}`, on: { click: act } }, text);
  return letter ? [button("Redrive", redrive), button("Discard", discard)] : [button("Redrive all", redrive), button("Discard all", discard)];
}

/** Progress of a redrive of many: how many of its plans there are, and how they do. */
function sweep({ selected, correlation_id: correlation }, signal) {
  const bar = el("progress", { max: Math.max(1, selected), value: "0", "aria-label": "Redriven" });
  const text = el("p", { class: "small" });
  const link = el("a", { href: `/plans?correlation_id=${correlation}` }, "Show the new plans");
  repeat(async () => {
    const page = await call(`/api/v1/plans?correlation_id=${correlation}&page_size=${MOST}`, { signal }).catch(() => null);
    if (!page || signal.aborted) return undefined;
    const ended = page.plans.filter(({ ended_at: end }) => end !== null).length;
    bar.value = page.next_page_token ? MOST : page.plans.length;
    text.textContent = `${selected} selected, ${page.plans.length}${page.next_page_token ? " or more" : ""} redriven, ${ended} of them ended`;
    return ended >= selected || page.next_page_token ? Infinity : undefined;
  }, 1000, signal);
  return el("div", { class: "card notice sweep" }, el("p", {}, "Redrive in the background"), bar, text, link);
}
