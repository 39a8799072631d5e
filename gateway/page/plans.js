// The list of plans, live, with filters in the address.

import { call, serverNow } from "./api.js";
import { el, outdated } from "./dom.js";
import { ago, badge, millis, moment, short, took } from "./format.js";
import { repeat, setQuery } from "./router.js";

const POLL_EVERY = 2000;
const STEP = 50;
const MOST = 500;
/** Searching a text reads many plans. */
const SEARCH_EVERY = 10_000;
const STATES = ["pending", "running", "succeeded", "failed", "cancelled"];
const ORDERS = [["", "newest first"], ["oldest", "oldest first"]];
const AGES = [["", "any time"], ["15m", "15 minutes"], ["1h", "1 hour"], ["24h", "24 hours"], ["7d", "7 days"]];
const UNITS = { m: 60_000, h: 3_600_000, d: 86_400_000 };
const FIELDS = ["status", "agent", "correlation_id", "age", "order", "error"];

export function open(root, { query, signal }) {
  const filter = Object.fromEntries(FIELDS.map((name) => [name, query.get(name) ?? ""]));
  const list = planList();
  const counts = stateCounts(filter, signal);
  let size = STEP;
  // A page of a search may end before it is full.
  let pages = 1;
  const refresh = repeat(async () => {
    try {
      list.show(await load(filter, size, pages, signal), size, filter);
    } catch (error) {
      if (!signal.aborted) list.fail(error);
    }
    return filter.error ? SEARCH_EVERY : undefined;
  }, POLL_EVERY, signal);
  const change = (changes) => {
    Object.assign(filter, changes);
    setQuery(changes);
    size = STEP;
    pages = 1;
    list.clear();
    counts.mark();
    refresh();
  };
  list.onMore((isFull) => {
    if (isFull) size = Math.min(MOST, size + STEP * 2);
    else pages += 1;
    refresh();
  });
  const clock = setInterval(list.tick, 1000);
  signal.addEventListener("abort", () => clearInterval(clock));
  root.append(
    el("header", { class: "head" }, el("h2", {}, "Plans"), list.count),
    counts.node,
    filters(filter, change, signal),
    list.node,
  );
}

/** Plans that match, up to `size`, from at most `pages` pages. */
async function load(filter, size, pages, signal) {
  const query = listQuery(filter, size);
  const found = { plans: [], next_page_token: null };
  for (let page = 0; page < pages && found.plans.length < size; page += 1) {
    const { plans, next_page_token: next } = await call(`/api/v1/plans?${query}`, { signal });
    found.plans.push(...plans);
    found.next_page_token = next;
    if (!next) break;
    query.set("page_token", next);
  }
  return found;
}

/** How many plans there are in each state, as links: those that have not ended, and those that ended in a day. */
function stateCounts(filter, signal) {
  const node = el("nav", { class: "counts", "aria-label": "Plans by state", hidden: true });
  const links = new Map();
  const link = (state, age) => {
    const count = el("strong");
    const query = new URLSearchParams(age ? { status: state, age } : { status: state });
    const made = el("a", { class: "chip", href: `/plans?${query}`, data: { status: state } }, el("span", {}, count, ` ${state}`));
    links.set(state, { count, made, age });
    return made;
  };
  node.append(link("pending", ""), link("running", ""), el("span", { class: "small" }, "In 24 hours:"), ...["succeeded", "failed", "cancelled"].map((state) => link(state, "24h")));
  const mark = () => {
    for (const [state, { made, age }] of links) {
      if (filter.status === state && filter.age === age) made.setAttribute("aria-current", "true");
      else made.removeAttribute("aria-current");
    }
  };
  mark();
  repeat(async () => {
    try {
      const { unfinished, total } = await call("/api/v1/stats?window=24h&buckets=false", { signal });
      for (const [state, { count }] of links) count.textContent = short({ ...total, ...unfinished }[state]);
      node.hidden = false;
    } catch {
      // The list says what is wrong.
      node.hidden = true;
    }
  }, SEARCH_EVERY / 2, signal);
  return { node, mark };
}

function listQuery({ age, ...filter }, size) {
  const given = Object.entries(filter).filter(([, value]) => value !== "");
  const query = new URLSearchParams([...given, ["page_size", size]]);
  const known = /^(\d{1,4})([mhd])$/.exec(age);
  if (known) query.set("since", new Date(serverNow() - known[1] * UNITS[known[2]]).toISOString());
  return query;
}

function filters(filter, change, signal) {
  const agent = el("select", { name: "agent" }, el("option", { value: "" }, "any agent"));
  const addAgents = (names) => {
    const missing = names.filter((name) => ![...agent.options].some((option) => option.value === name));
    agent.append(...missing.map((name) => el("option", { value: name }, name)));
    agent.value = filter.agent;
  };
  addAgents([filter.agent].filter(Boolean));
  call("/api/v1/agents", { signal }).then((agents) => addAgents(agents.map(({ agent_id: name }) => name))).catch(() => {});
  const text = (name, placeholder) => el("input", { name, value: filter[name], placeholder, spellcheck: "false", autocomplete: "off", maxlength: "256" });
  const form = el(
    "form",
    { class: "filters plan-filters", role: "search", "aria-label": "Filter plans" },
    field("State", select("status", [["", "any state"], ["unfinished", "not ended"], ...STATES.map((state) => [state, state])], filter.status)),
    field("Agent", agent),
    field("Accepted within", select("age", AGES, filter.age)),
    field("Order", select("order", ORDERS, filter.order)),
    field("Text of the error", text("error", "part of its code or message"), "wide"),
    field("Correlation id", text("correlation_id", "UUID"), "wide"),
  );
  form.addEventListener("change", ({ target }) => change({ [target.name]: target.value.trim() }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change({ correlation_id: form.elements.correlation_id.value.trim(), error: form.elements.error.value.trim() });
  });
  return form;
}

export const field = (label, control, kind = "") => el("label", { class: kind }, el("span", {}, label), control);

export function select(name, options, value) {
  const node = el("select", { name }, ...options.map(([key, text]) => el("option", { value: key }, text)));
  node.value = value;
  return node;
}

/** Rows by plan id. A row keeps its element, so that focus and selection survive a refresh. */
function planList() {
  const rows = new Map();
  const problem = el("p", { class: "card notice", role: "status", hidden: true });
  const items = el("ol", { class: "card rows plans" });
  const empty = el("p", { class: "small", hidden: true }, "No plan matches.");
  const more = el("button", { type: "button", class: "plain", hidden: true }, "Show more");
  const count = el("p", { class: "small", role: "status" }, "loading…");
  const clear = () => {
    rows.clear();
    items.replaceChildren();
  };
  let isFull = true;
  const show = ({ plans, next_page_token: next }, size, { order, error: text }) => {
    problem.hidden = true;
    const shown = plans.map((plan) => {
      const row = rows.get(plan.plan_id) ?? planRow(plan.plan_id);
      row.update(plan);
      return [plan.plan_id, row];
    });
    const isSame = shown.length === items.children.length && shown.every(([, row], index) => items.children[index] === row.node);
    if (!isSame) items.replaceChildren(...shown.map(([, row]) => row.node));
    rows.clear();
    shown.forEach(([id, row]) => rows.set(id, row));
    items.hidden = plans.length === 0;
    empty.hidden = plans.length > 0;
    isFull = plans.length >= size || !text;
    more.hidden = !next || (isFull && size >= MOST);
    more.textContent = isFull ? "Show more" : `Search ${order === "oldest" ? "newer" : "older"} plans`;
    empty.textContent = next ? "No plan matches so far." : "No plan matches.";
    const which = next && isFull ? ` ${order || "newest"}` : "";
    const found = `${plans.length}${which} ${plans.length === 1 ? "plan" : "plans"}`;
    if (count.textContent !== found) count.textContent = found;
  };
  const fail = (error) => outdated(error, problem, count);
  return {
    node: el("div", { class: "listing" }, problem, items, empty, more),
    count,
    show,
    fail,
    clear,
    tick: () => rows.forEach((row) => row.tick()),
    onMore: (listener) => more.addEventListener("click", () => listener(isFull)),
  };
}

function planRow(id) {
  const state = el("span");
  const error = el("span", { class: "row-error" });
  const times = el("span", { class: "small row-times" });
  const node = el("li", {}, el("a", { href: `/plans/${id}` }, state, el("code", {}, id), error, times));
  let plan;
  const tick = () => {
    const now = serverNow();
    const started = millis(plan.created_at);
    const ended = millis(plan.ended_at);
    const text = `${ago(started, now)} · ${ended ? `took ${took(ended - started)}` : `for ${took(now - started)}`}`;
    if (times.textContent !== text) times.textContent = text;
  };
  const update = (next) => {
    if (plan?.status !== next.status) state.replaceChildren(badge(next.status));
    plan = next;
    const text = plan.error ? `${plan.error.code}: ${plan.error.message}` : "";
    if (error.textContent !== text) error.textContent = text;
    times.title = moment(plan.created_at).textContent;
    tick();
  };
  return { node, update, tick };
}
