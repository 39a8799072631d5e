// Helpers for the DOM and for times. Server data only becomes text nodes: nothing here parses HTML.

/** Creates an element. `props` are attributes, plus `on` (listeners) and `data` (dataset). Empty children are skipped. */
export const el = (tag, props, ...children) => filled(document.createElement(tag), props, children);

/** Creates an element of a drawing, as `el` does. */
export const svg = (tag, props, ...children) => filled(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);

function filled(node, props = {}, children) {
  const { on = {}, data = {}, ...attributes } = props;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  Object.assign(node.dataset, data);
  for (const [type, listener] of Object.entries(on)) node.addEventListener(type, listener);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Announces a change to screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** A value with a copy button, which confirms the copy visibly and to screen readers. */
export function copyable(label, value) {
  const text = el("code", {}, value);
  const sign = el("span", { class: "copy-sign" }, "Copy");
  let reset;
  const copy = async () => {
    const done = await writeToClipboard(value);
    if (!done) getSelection().selectAllChildren(text);
    sign.textContent = done ? "Copied" : "Press Ctrl+C";
    button.dataset.copied = done;
    announce(done ? `${label} copied` : `${label} could not be copied`);
    clearTimeout(reset);
    reset = setTimeout(() => {
      sign.textContent = "Copy";
      delete button.dataset.copied;
    }, 2000);
  };
  const button = el(
    "button",
    { type: "button", class: "copy", title: `Copy ${label}`, on: { click: copy } },
    el("span", { class: "copy-label" }, label),
    text,
    sign,
  );
  return button;
}

async function writeToClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The clipboard API requires TLS or localhost; selecting and copying works everywhere.
    const field = el("textarea", { class: "visually-hidden", "aria-hidden": "true", tabindex: "-1" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

/** A duration in one unit: `4 s`, `2 min`, `3 h`, `5 d`. */
export function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** A remaining duration: `42 s`, `4:12`, `3 h`. */
export function countdown(milliseconds) {
  const seconds = Math.max(0, Math.ceil(milliseconds / 1000));
  if (seconds < 60 || seconds >= 3600) return span(seconds * 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** A measured duration: `12 ms`, `1.4 s`, `42 s`. */
export function duration(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return milliseconds < 10_000 ? `${(milliseconds / 1000).toFixed(1)} s` : span(milliseconds);
}

/** A text of any length: its beginning, and a button for the rest. */
export function preview(text, { class: kind = "block", limit = 2000, label = "text" } = {}) {
  const shown = el("pre", { class: kind, tabindex: "0", role: "group", "aria-label": label }, text.slice(0, limit));
  if (text.length <= limit) return shown;
  const more = el("button", { type: "button", class: "plain" }, `Show all ${text.length.toLocaleString("en")} characters`);
  more.addEventListener("click", () => {
    shown.textContent = text;
    shown.focus();
    more.remove();
  });
  return el("div", { class: "preview" }, shown, more);
}

/** A sentence with `code` in a code font, and times in the reader's time zone. */
export function sentence(text) {
  const isCode = (at, parts) => at % 2 === 1 && at < parts.length - 1;
  return text.split("`").flatMap((part, at, parts) => (isCode(at, parts) ? el("code", {}, part) : times(part)));
}

/** Shows in `problem` why a listing could not be read again, and in `count` that it is not up to date. */
export function outdated(error, problem, count) {
  problem.replaceChildren(...sentence(error.message), ` (${error.code})`);
  problem.hidden = error.status === 401;
  count.textContent = "not up to date";
}

function times(text) {
  return text.split(/(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)/).map((part, at) => (at % 2 === 1 ? time(part) : part));
}

function time(timestamp) {
  const date = new Date(timestamp);
  if (Number.isNaN(date.getTime())) return timestamp;
  const isToday = date.toDateString() === new Date().toDateString();
  const words = isToday ? date.toLocaleTimeString() : date.toLocaleString();
  return el("time", { datetime: timestamp, title: timestamp }, words);
}
