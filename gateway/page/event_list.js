// The events of a plan. Only the rows in view are elements, so that ten thousand events stay fluid.

import { el, preview } from "./dom.js";
import { clock, took, words } from "./format.js";
import { listbox } from "./listbox.js";

const ROW = 32;
const SPARE = 8;

/** A list of events of a plan that was accepted at `from`. */
export function eventList(from) {
  const all = [];
  let shown = all;
  let wanted = "";
  let isFollowing = true;
  const space = el("div", { class: "window-space" });
  const list = el("div", { class: "window" }, space);
  const status = el("p", { class: "small", role: "status" });
  const search = el("input", { type: "search", placeholder: "kind, task or text", "aria-label": "Filter events" });
  const details = el("div", { class: "event-details" });
  const box = listbox(list, {
    label: "Events, oldest first",
    count: () => shown.length,
    reveal: (index, scroll) => {
      if (scroll) reveal(index);
      render();
      return space.querySelector(`[data-index="${index}"]`);
    },
    choose: (index) => {
      isFollowing = index === shown.length - 1;
      showDetails(shown[index]);
    },
  });
  const reveal = (index) => {
    const [top, bottom] = [index * ROW, (index + 1) * ROW];
    if (top < list.scrollTop) list.scrollTop = top;
    if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  };
  const render = () => {
    space.style.height = `${shown.length * ROW}px`;
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
    const active = box.active();
    const rows = [];
    for (let index = first; index < last; index += 1) rows.push(eventRow(shown[index], index, from, shown.length, index === active));
    space.replaceChildren(...rows);
  };
  let frame = 0;
  const refresh = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      const found = shown.length === all.length ? `${all.length} events` : `${shown.length} of ${all.length} events`;
      if (status.textContent !== found) status.textContent = found;
      space.style.height = `${shown.length * ROW}px`;
      if (isFollowing) list.scrollTop = list.scrollHeight;
      render();
    });
  };
  const showDetails = (event) => {
    const { kind, task_key: task, at, data, position } = event;
    const facts = [words(kind), task && `task ${task}`, new Date(at).toLocaleString(), `position ${position}`].filter(Boolean);
    details.replaceChildren(el("p", { class: "small" }, facts.join(" · ")), preview(JSON.stringify(data, null, 2), { label: "Facts of the event" }));
  };
  const matches = (event) => wanted === "" || textOf(event).includes(wanted);
  list.addEventListener("scroll", () => {
    isFollowing = list.scrollTop + list.clientHeight >= list.scrollHeight - ROW;
    render();
  });
  search.addEventListener("input", () => {
    wanted = search.value.trim().toLowerCase();
    shown = wanted === "" ? all : all.filter(matches);
    box.mark(-1);
    details.replaceChildren();
    refresh();
  });
  new ResizeObserver(refresh).observe(list);
  return {
    node: el("div", { class: "events" }, el("div", { class: "row" }, search, status), list, details),
    add: (event) => {
      all.push(event);
      if (shown !== all && matches(event)) shown.push(event);
      refresh();
    },
  };
}

const textOf = ({ kind, task_key: task, data }) => `${kind} ${words(kind)} ${task ?? ""} ${JSON.stringify(data)}`.toLowerCase();

function eventRow(event, index, from, count, isActive) {
  const { kind, task_key: task, at, data } = event;
  const offset = Date.parse(at) - from;
  const row = el(
    "div",
    {
      class: "event-row",
      role: "option",
      id: `event-${index}`,
      "aria-selected": String(isActive),
      "aria-posinset": index + 1,
      "aria-setsize": count,
      data: { index, kind },
    },
    el("time", { datetime: at, title: at }, clock(at)),
    el("span", { class: "small" }, `+${took(Math.max(0, offset))}`),
    el("span", { class: "event-kind" }, words(kind)),
    el("code", {}, task ?? ""),
    el("span", { class: "small facts-line" }, summary(data)),
  );
  row.style.top = `${index * ROW}px`;
  return row;
}

/** The facts of an event in one line. */
function summary(data) {
  const fact = ([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`;
  return Object.entries(data ?? {}).filter(([, value]) => value !== null).map(fact).join(" · ").slice(0, 300);
}
