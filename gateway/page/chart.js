// Charts of values over time: lines or bars, with the values under the pointer.

import { el, svg } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 120;

/**
 * A chart. `series` are `{ name, kind: "line" | "bar", value: (bucket) => number | null }`; `show` renders a value. A bucket
 * without a value is a gap.
 */
export function chart({ title, series, show, most = null }) {
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const top = el("span", { class: "chart-top", "aria-hidden": "true" });
  const [from, to] = [el("span"), el("span")];
  const legend = el("p", { class: "small chart-legend" });
  let buckets = [];
  const name = (bucket) => new Date(bucket.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const describe = (bucket, when) => {
    const values = series.map((one) => [one, one.value(bucket)]).filter(([, value]) => value !== null);
    const parts = values.map(([one, value]) => el("span", { class: "key", data: { series: series.indexOf(one) } }, `${one.name} ${show(value)}`));
    legend.replaceChildren(el("span", {}, when), ...(parts.length > 0 ? parts : [el("span", {}, "nothing")]));
  };
  const update = (next, total) => {
    buckets = next;
    const values = buckets.flatMap((bucket) => series.map(({ value }) => value(bucket))).filter((value) => value !== null);
    const high = most ?? Math.max(...values, 0);
    const scale = high > 0 ? (HEIGHT - 4) / high : 0;
    drawing.replaceChildren(...series.map((one, index) => (one.kind === "bar" ? bars : line)(buckets, one.value, scale, index)));
    drawing.setAttribute("aria-label", `${title}: ${series.map((one) => `${one.name} ${shown(one.value(total))}`).join(", ")}; at most ${show(high)}`);
    top.textContent = show(high);
    from.textContent = name(buckets[0]);
    to.textContent = "now";
    describe(total, "all");
  };
  const shown = (value) => (value === null ? "nothing" : show(value));
  let total = null;
  drawing.addEventListener("pointermove", ({ offsetX }) => {
    const index = Math.min(buckets.length - 1, Math.max(0, Math.floor((offsetX / drawing.clientWidth) * buckets.length)));
    if (buckets[index]) describe(buckets[index], name(buckets[index]));
  });
  drawing.addEventListener("pointerleave", () => total && describe(total, "all"));
  return {
    node: el("figure", { class: "card figure" }, el("figcaption", { class: "quiet" }, title), legend, el("div", { class: "plot" }, top, drawing), el("div", { class: "small chart-axis", "aria-hidden": "true" }, from, to)),
    update: (next, all) => {
      total = all;
      update(next, all);
    },
  };
}

function line(buckets, value, scale, index) {
  const step = WIDTH / buckets.length;
  let path = "";
  let isDown = false;
  buckets.forEach((bucket, at) => {
    const y = value(bucket);
    if (y === null) isDown = false;
    else {
      const point = `${((at + 0.5) * step).toFixed(1)} ${(HEIGHT - 2 - y * scale).toFixed(1)}`;
      // A single value is a short line.
      path += isDown ? `L${point}` : `M${point}h.1`;
      isDown = true;
    }
  });
  return svg("path", { d: path, class: "chart-line", data: { series: index } });
}

function bars(buckets, value, scale, index) {
  const step = WIDTH / buckets.length;
  const bar = (bucket, at) => {
    const height = (value(bucket) ?? 0) * scale;
    return height > 0 ? `M${(at * step + step * 0.1).toFixed(1)} ${HEIGHT}v-${height.toFixed(1)}h${(step * 0.8).toFixed(1)}v${height.toFixed(1)}z` : "";
  };
  return svg("path", { d: buckets.map(bar).join(""), class: "chart-bar", data: { series: index } });
}
