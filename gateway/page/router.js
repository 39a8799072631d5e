// Views by path. A view is a module with `open(root, { parameters, query, signal })`; `signal` ends it.

import { byId, el } from "./dom.js";

const NAME = "Phoenix Orchestrator";

/** The chat is part of the page and stays as it is while other views are shown. */
const VIEWS = [
  { path: /^\/$/, tab: "/", title: "Chat" },
  { path: /^\/plans$/, tab: "/plans", title: "Plans", load: () => import("./plans.js") },
  { path: /^\/plans\/([^/]+)$/, tab: "/plans", title: "Plan", load: () => import("./plan_view.js") },
  { path: /^\/agents$/, tab: "/agents", title: "Agents", load: () => import("./agents_view.js") },
  { path: /^\/agents\/([^/]+)$/, tab: "/agents", title: "Agent", load: () => import("./agent_view.js") },
  { path: /^\/approvals$/, tab: "/approvals", title: "Approvals", load: () => import("./approvals_view.js") },
  { path: /^\/dead-letters$/, tab: "/dead-letters", title: "Dead letters", load: () => import("./dead_letters.js") },
  { path: /^\/overview$/, tab: "/overview", title: "Overview", load: () => import("./overview.js") },
  { path: /^\/docs$/, tab: "/docs", title: "API", load: () => import("./docs.js") },
];

let current = new AbortController();

/** Shows the view of the address, and follows links between views. */
export function startRouter() {
  addEventListener("popstate", () => show());
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
    if (!link || !isPlain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || !viewOf(url.pathname)) return;
    const isHere = url.pathname === location.pathname && url.search === location.search;
    if (isHere && url.hash) return;
    event.preventDefault();
    navigate(url);
  });
  return show();
}

/** Goes to another view. */
export function navigate(url) {
  history.pushState(null, "", url);
  scrollTo({ top: 0, behavior: "instant" });
  return show({ focus: true });
}

/** Changes parameters of the address without opening the view again; empty ones are removed. */
export function setQuery(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString();
  history.replaceState(null, "", location.pathname + (text && `?${text}`) + location.hash);
}

/** Opens the present view again. */
export const reopen = () => show();

const viewOf = (path) => VIEWS.find((view) => view.path.test(path));

async function show({ focus = false } = {}) {
  current.abort();
  const ended = new AbortController();
  current = ended;
  const view = viewOf(location.pathname) ?? VIEWS[0];
  for (const link of document.querySelectorAll(".nav a")) {
    if (link.getAttribute("href") === view.tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = view.load ? `${view.title} · ${NAME}` : NAME;
  const root = byId("view");
  byId("chat-view").hidden = Boolean(view.load);
  root.hidden = !view.load;
  root.replaceChildren();
  if (view.load) {
    const module = await view.load().catch(() => null);
    if (ended.signal.aborted) return;
    const parameters = view.path.exec(location.pathname).slice(1).map(decodeURIComponent);
    const query = new URLSearchParams(location.search);
    if (module) module.open(root, { parameters, query, signal: ended.signal });
    else root.append(el("p", { class: "card notice" }, "This view could not be loaded. Reload the page."));
  }
  if (focus) byId("main").focus({ preventScroll: true });
  if (location.hash) document.querySelector(`[id="${CSS.escape(location.hash.slice(1))}"]`)?.scrollIntoView();
}

/**
 * Calls `work` now and `every` milliseconds after each end, until `signal`; not while the page is hidden. `work` may return a
 * longer time, or `Infinity` for no further call.
 */
export function repeat(work, every, signal) {
  let timer;
  let isBusy = false;
  const run = async () => {
    clearTimeout(timer);
    if (isBusy || document.hidden || signal.aborted) return;
    isBusy = true;
    const wait = await work();
    isBusy = false;
    clearTimeout(timer);
    const next = Math.max(every, wait ?? 0);
    if (!signal.aborted && next !== Infinity) timer = setTimeout(run, next);
  };
  document.addEventListener("visibilitychange", run, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  run();
  return run;
}
