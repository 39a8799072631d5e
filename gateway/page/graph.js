// The tasks of a plan as a graph: columns by depth, edges from dependencies.

import { el, svg } from "./dom.js";
import { words } from "./format.js";

const WIDTH = 168;
const HEIGHT = 40;
const GAP_X = 56;
const GAP_Y = 14;
const PAD = 8;

/** A graph. `choose` gets the key of a selected task. */
export function graph(choose) {
  const drawing = svg("svg", { class: "graph", role: "group", "aria-label": "Graph of tasks" });
  const nodes = new Map();
  let shape = "";
  const draw = (tasks) => {
    const places = layout(tasks);
    const columns = Math.max(...[...places.values()].map(({ column }) => column)) + 1;
    const rows = Math.max(...[...places.values()].map(({ row }) => row)) + 1;
    const [width, height] = [columns * (WIDTH + GAP_X) - GAP_X + 2 * PAD, rows * (HEIGHT + GAP_Y) - GAP_Y + 2 * PAD];
    Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` }).forEach(([name, value]) => drawing.setAttribute(name, value));
    nodes.clear();
    const edges = tasks.flatMap((task) => task.depends_on.filter((key) => places.has(key)).map((key) => edge(places.get(key), places.get(task.key))));
    tasks.forEach((task) => nodes.set(task.key, taskNode(task, places.get(task.key), choose)));
    drawing.replaceChildren(svg("g", { class: "edges" }, ...edges), ...nodes.values());
  };
  const update = ({ tasks }) => {
    const next = JSON.stringify(tasks.map(({ key, depends_on: needs }) => [key, needs]));
    if (next !== shape) draw(tasks);
    shape = next;
    for (const task of tasks) {
      const node = nodes.get(task.key);
      if (node.dataset.status === task.status) continue;
      node.dataset.status = task.status;
      node.setAttribute("aria-label", `${task.key}, ${task.agent}, ${words(task.status)}, needs ${task.depends_on.join(", ") || "nothing"}`);
    }
  };
  const select = (key) => {
    for (const [name, node] of nodes) {
      if (name === key) node.setAttribute("aria-current", "true");
      else node.removeAttribute("aria-current");
    }
  };
  return { node: el("div", { class: "scroll graph-box", tabindex: "0", role: "region", "aria-label": "Graph" }, drawing), update, select };
}

/** Column: the longest path to a task. Row: near its dependencies, in the order of the request. */
function layout(tasks) {
  const byKey = new Map(tasks.map((task) => [task.key, task]));
  const places = new Map();
  const depths = new Map();
  // Tasks can be listed before their dependencies; a graph of the planner has no cycle.
  const depth = (key) => {
    if (depths.has(key)) return depths.get(key);
    depths.set(key, 0);
    const needs = byKey.get(key).depends_on.filter((need) => byKey.has(need));
    depths.set(key, needs.length === 0 ? 0 : 1 + Math.max(...needs.map(depth)));
    return depths.get(key);
  };
  const columns = [];
  for (const { key } of tasks) (columns[depth(key)] ??= []).push(key);
  columns.forEach((keys, column) => {
    const mean = (key) => {
      const rows = byKey.get(key).depends_on.map((need) => places.get(need)?.row).filter((row) => row !== undefined);
      return rows.length === 0 ? Infinity : rows.reduce((sum, row) => sum + row, 0) / rows.length;
    };
    const means = new Map(keys.map((key) => [key, mean(key)]));
    const sorted = column === 0 ? keys : keys.toSorted((a, b) => (means.get(a) === means.get(b) ? 0 : means.get(a) - means.get(b)));
    sorted.forEach((key, row) => places.set(key, { column, row, x: PAD + column * (WIDTH + GAP_X), y: PAD + row * (HEIGHT + GAP_Y) }));
  });
  return places;
}

function edge(from, to) {
  const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
  const bend = Math.max(24, (x2 - x1) / 2);
  return svg("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
}

function taskNode(task, { x, y }, choose) {
  const node = svg(
    "g",
    { class: "node", role: "button", tabindex: "0", transform: `translate(${x} ${y})` },
    svg("rect", { width: WIDTH, height: HEIGHT, rx: 8 }),
    svg("circle", { cx: 14, cy: HEIGHT / 2, r: 4 }),
    svg("text", { x: 26, y: 17 }, cut(task.key, 20)),
    svg("text", { x: 26, y: 31, class: "agent" }, cut(task.agent, 22)),
    svg("title", {}, `${task.key} · ${task.agent}`),
  );
  node.addEventListener("click", () => choose(task.key));
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(task.key);
  });
  return node;
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
