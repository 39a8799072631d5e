// The composer, and the history of this session.

import { refreshAgents } from "./agents.js";
import { ApiError, chat as sendChat } from "./api.js";
import { announce, byId, copyable, duration, el, sentence } from "./dom.js";
import { planDetails } from "./plan.js";

const MAX_MESSAGE_BYTES = 32_768;
const EXAMPLES = ["git status", "list notes", "What can you do?"];

/** Attaches the composer. */
export function startComposer() {
  const form = byId("composer");
  const message = byId("message");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit(message);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  message.addEventListener("input", () => checkLength(message));
  if (/Mac|iPhone|iPad/.test(navigator.userAgent)) byId("shortcut").firstElementChild.textContent = "⌘";
  for (const text of EXAMPLES) {
    const use = () => {
      message.value = text;
      message.focus();
    };
    byId("examples").append(el("li", {}, el("button", { type: "button", on: { click: use } }, text)));
  }
}

function checkLength(message) {
  const bytes = new TextEncoder().encode(message.value).length;
  const problem = byId("message-problem");
  problem.hidden = bytes <= MAX_MESSAGE_BYTES;
  problem.textContent = problem.hidden ? "" : `${bytes - MAX_MESSAGE_BYTES} bytes too long`;
  return problem.hidden;
}

function submit(field) {
  const message = field.value;
  if (message.trim() === "" || !checkLength(field)) return field.focus();
  const chat = { message };
  if (byId("context").value !== "") chat.context = byId("context").value;
  if (byId("agent").value !== "") chat.agent = byId("agent").value;
  field.value = "";
  field.focus();
  send(chat);
}

/** Sends a chat and shows its progress in a card, newest first. */
async function send(chat) {
  const entry = chatCard(chat);
  byId("empty").hidden = true;
  byId("history").prepend(entry.node);
  const started = performance.now();
  const clock = setInterval(() => entry.running(performance.now() - started), 100);
  try {
    const answer = await sendChat(chat, { signal: entry.signal, live: entry.said });
    entry.answered(answer, performance.now() - started);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    entry.failed(error, performance.now() - started);
  } finally {
    clearInterval(clock);
    refreshAgents();
  }
}

function chatCard(chat) {
  const waiting = new AbortController();
  const clock = el("span", { class: "clock" });
  const stop = el("button", { type: "button", class: "plain", on: { click: () => waiting.abort() } }, "Stop");
  const foot = el("div", { class: "foot" }, el("span", { class: "spinner", "aria-hidden": "true" }), "Working", clock, stop);
  const node = el(
    "li",
    { class: "card entry", data: { status: "running" } },
    el("p", { class: "message" }, chat.message),
    (chat.agent || chat.context) && el("p", { class: "small" }, chatOptions(chat)),
    foot,
  );
  const growing = outputBlock("");
  const end = (status, took, { correlationId, planId }, ...body) => {
    node.dataset.status = status;
    growing.remove();
    const ids = [
      correlationId && copyable("Correlation id", correlationId),
      planId && copyable("Plan id", planId),
    ];
    foot.replaceChildren(el("div", { class: "ids" }, ...ids), el("span", { class: "clock" }, duration(took)));
    foot.before(...body);
    if (planId) foot.after(planDetails(planId));
  };
  return {
    node,
    signal: waiting.signal,
    said: (event, { data }) => {
      if (event === "output_reset") growing.textContent = "";
      if (event === "output") growing.append(data.text);
      if (event === "progress" && data.message) foot.childNodes[1].textContent = data.message;
      if (growing.textContent === "") growing.remove();
      else if (!growing.isConnected) foot.before(growing);
    },
    running: (took) => (clock.textContent = `${(took / 1000).toFixed(1)} s`),
    answered: ({ output, correlation_id: correlationId, plan_id: planId }, took) => {
      end("success", took, { correlationId, planId }, outputBlock(output ?? ""));
      announce("Answer received");
    },
    failed: (error, took) => {
      end("error", took, error, ...errorBlock(error, chat));
      announce(`The chat failed: ${error.code}. ${error.message}`);
    },
  };
}

function chatOptions({ agent, context }) {
  return [agent && `to ${agent}`, context && `with ${context.length} characters of context`].filter(Boolean).join(" · ");
}

function outputBlock(text) {
  // Columns and indented lines need a monospace font.
  const shaped = /^(\t| {2,}\S)|\S {3,}\S|^(diff --git|commit [0-9a-f]{7})/m.test(text);
  return el("div", { class: shaped ? "output shaped" : "output", tabindex: "0", role: "group", "aria-label": "Answer" }, text);
}

function errorBlock(error, chat) {
  const { stderr, ...facts } = error.details;
  const rows = Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  return [
    el(
      "div",
      { class: "failure", role: "group", "aria-label": "Error" },
      el("p", {}, el("code", { class: "code" }, error.code), error.status > 0 && el("span", { class: "small" }, `HTTP ${error.status}`)),
      el("p", { class: "why" }, ...sentence(error.message)),
      rows.length > 0 && el("dl", {}, ...rows),
      stderr && el("details", {}, el("summary", {}, "stderr of the agent"), el("pre", { tabindex: "0" }, stderr)),
      retryButton(error, chat),
    ),
  ];
}

/** A button that sends the chat again, enabled after `Retry-After`. */
function retryButton({ retryAfter, code }, chat) {
  if (!retryAfter && !["unreachable", "unauthenticated", "timeout", "cancelled", "unavailable", "agent_unavailable"].includes(code)) return null;
  const button = el("button", { type: "button", class: "plain", on: { click: () => send(chat) } });
  const ready = performance.now() + (retryAfter ?? 0) * 1000;
  const render = () => {
    const left = Math.ceil((ready - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Send again in ${left} s` : "Send again";
    if (left <= 0) clearInterval(clock);
  };
  const clock = setInterval(render, 250);
  render();
  return button;
}
