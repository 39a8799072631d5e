// What happened in the last minutes or hours, as charts.

import { call } from "./api.js";
import { chart } from "./chart.js";
import { duration, el, sentence } from "./dom.js";
import { money, short } from "./format.js";
import { field, select } from "./plans.js";
import { repeat, setQuery } from "./router.js";

const POLL_EVERY = 5000;
const WINDOWS = [["15m", "15 minutes"], ["1h", "1 hour"], ["6h", "6 hours"], ["24h", "24 hours"]];

const ended = ({ succeeded, failed, cancelled }) => succeeded + failed + cancelled;
const success = (counts) => (counts.succeeded + counts.failed > 0 ? counts.succeeded / (counts.succeeded + counts.failed) : null);
const percent = (share) => `${(share * 100).toFixed(share > 0.99 && share < 1 ? 2 : 1)} %`;
const percentile = (member, name) => ({ name, kind: "line", value: (counts) => counts[member]?.[name] ?? null });

export function open(root, { query, signal }) {
  let window = query.get("window") ?? "1h";
  const problem = el("p", { class: "card notice", role: "status", hidden: true });
  const tiles = el("dl", { class: "tiles" });
  const charts = [
    { title: "Plans accepted", show: short, series: [{ name: "accepted", kind: "bar", value: ({ accepted }) => accepted }] },
    { title: "Success", show: percent, most: 1, series: [{ name: "succeeded", kind: "line", value: success }] },
    { title: "Latency", show: duration, series: ["p50", "p95", "p99"].map((name) => percentile("latency_ms", name)) },
    { title: "Wait for the first attempt", show: duration, series: ["p50", "p95", "p99"].map((name) => percentile("wait_ms", name)) },
    { title: "Failed and cancelled", show: short, series: [{ name: "failed", kind: "bar", value: ({ failed }) => failed }, { name: "cancelled", kind: "line", value: ({ cancelled }) => cancelled }] },
    { title: "Cost of models", show: money, series: [{ name: "cost", kind: "bar", value: ({ cost_usd: cost }) => cost }] },
  ].map(chart);
  const table = el("details", { class: "result" }, el("summary", {}, "As a table"));
  const body = el("div", { class: "listing", hidden: true }, tiles, el("div", { class: "charts" }, ...charts.map(({ node }) => node)), table);
  let shown = null;
  table.addEventListener("toggle", () => fillTable(table, shown));
  const refresh = repeat(async () => {
    try {
      shown = await call(`/api/v1/stats?window=${encodeURIComponent(window)}`, { signal });
      body.hidden = false;
      problem.hidden = true;
      tiles.replaceChildren(...tilesOf(shown.total));
      charts.forEach(({ update }) => update(shown.buckets, shown.total));
      fillTable(table, shown);
    } catch (error) {
      if (signal.aborted) return;
      problem.replaceChildren(...sentence(error.message), ` (${error.code})`);
      problem.hidden = error.status === 401;
    }
  }, POLL_EVERY, signal);
  const choice = select("window", WINDOWS, window);
  const form = el("form", { class: "filters window-choice" }, field("Until now", choice));
  form.addEventListener("submit", (event) => event.preventDefault());
  choice.addEventListener("change", () => {
    window = choice.value;
    setQuery({ window });
    refresh();
  });
  root.append(el("header", { class: "head" }, el("h2", {}, "Overview"), form), problem, body);
}

function tilesOf(total) {
  const share = success(total);
  const { latency_ms: latency, wait_ms: wait, cost_usd: cost, input_tokens: input, output_tokens: output } = total;
  const tiles = [
    ["Plans accepted", short(total.accepted), `${short(ended(total))} ended`],
    ["Success", share === null ? "–" : percent(share), `${short(total.failed)} failed, ${short(total.cancelled)} cancelled`],
    ["Latency (p95)", latency ? duration(latency.p95) : "–", latency ? `median ${duration(latency.p50)}` : "no plan ended"],
    ["Wait (p95)", wait ? duration(wait.p95) : "–", wait ? `median ${duration(wait.p50)}` : "no task started"],
    ["Cost", money(cost), `${short(input)} tokens in, ${short(output)} out`],
  ];
  return tiles.map(([name, value, more]) => el("div", { class: "card tile" }, el("dt", {}, name), el("dd", {}, el("strong", {}, value), el("span", { class: "small" }, more))));
}

function fillTable(table, statistics) {
  if (!table.open || !statistics) return;
  const columns = [
    ["From", ({ at }) => new Date(at).toLocaleString()],
    ["Accepted", ({ accepted }) => accepted],
    ["Succeeded", ({ succeeded }) => succeeded],
    ["Failed", ({ failed }) => failed],
    ["Cancelled", ({ cancelled }) => cancelled],
    ["Latency p95", ({ latency_ms: latency }) => (latency ? duration(latency.p95) : "")],
    ["Wait p95", ({ wait_ms: wait }) => (wait ? duration(wait.p95) : "")],
    ["Cost", ({ cost_usd: cost }) => (cost > 0 ? money(cost) : "")],
  ];
  const row = (bucket) => el("tr", {}, ...columns.map(([, value]) => el("td", {}, String(value(bucket)))));
  const head = el("tr", {}, ...columns.map(([name]) => el("th", { scope: "col" }, name)));
  const rows = statistics.buckets.filter((bucket) => bucket.accepted + ended(bucket) > 0).toReversed();
  const whole = el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows.map(row)));
  const box = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Statistics as a table" }, whole);
  const old = table.querySelector(".scroll");
  if (old) {
    const { scrollTop, scrollLeft } = old;
    old.replaceChildren(whole);
    Object.assign(old, { scrollTop, scrollLeft });
  } else table.append(box);
}
