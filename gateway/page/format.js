// Times, numbers and states, as text.

import { duration, el, span } from "./dom.js";

/** A state as words: `dead_lettered` is `dead lettered`. */
export const words = (state) => String(state).replaceAll("_", " ");

/** A state with its colour. */
export const badge = (state) => el("span", { class: "status", data: { status: state } }, words(state));

/** Milliseconds of a timestamp; null without one. */
export const millis = (timestamp) => (timestamp ? Date.parse(timestamp) : null);

/** A duration with the precision that its length needs: `640 ms`, `2.4 s`, `3 min 20 s`. */
export function took(milliseconds) {
  const whole = Math.round(milliseconds / 1000);
  if (whole < 60) return duration(Math.max(0, milliseconds));
  if (whole < 3600) return parts(Math.floor(whole / 60), "min", whole % 60, "s");
  if (whole < 86_400) return parts(Math.floor(whole / 3600), "h", Math.floor(whole / 60) % 60, "min");
  return parts(Math.floor(whole / 86_400), "d", Math.floor(whole / 3600) % 24, "h");
}

const parts = (many, unit, few, smaller) => (few ? `${many} ${unit} ${few} ${smaller}` : `${many} ${unit}`);

/** Time since a moment: `12 s ago`. */
export const ago = (since, now) => `${span(now - since)} ago`;

/** A moment in the reader's time zone, with milliseconds. */
export function clock(timestamp) {
  const date = new Date(timestamp);
  return `${date.toLocaleTimeString(undefined, { hourCycle: "h23" })}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** A moment with its date, as an element. */
export const moment = (timestamp) => el("time", { datetime: timestamp, title: timestamp }, new Date(timestamp).toLocaleString());

/** Bytes: `812 B`, `64 KiB`, `1.4 MiB`. */
export function bytes(count) {
  if (count < 1024) return `${count} B`;
  if (count < 1024 * 1024) return `${Math.round(count / 1024)} KiB`;
  return `${(count / 1024 / 1024).toFixed(1)} MiB`;
}

/** A large number, short: `12.3k`. */
export function short(count) {
  if (count < 10_000) return count.toLocaleString("en");
  if (count < 1_000_000) return `${(count / 1000).toFixed(count < 100_000 ? 1 : 0)}k`;
  return `${(count / 1_000_000).toFixed(1)}M`;
}

/** Dollars, with as many digits as a small amount needs. */
export function money(usd) {
  const digits = usd >= 1 || usd === 0 ? 2 : Math.min(9, 1 - Math.floor(Math.log10(usd)));
  return `$${usd.toFixed(digits)}`;
}

/** What calls of models used, in one line; empty without usage. */
export function usageText(usage) {
  if (!usage) return "";
  const { model_calls: calls, input_tokens: input, output_tokens: output, cost_usd: cost, unpriced_calls: unpriced } = usage;
  const facts = [`${short(input)} tokens in, ${short(output)} out`, calls === 1 ? "1 call" : `${calls} calls`];
  if (cost !== null) facts.push(money(cost));
  if (unpriced > 0) facts.push(`${unpriced} without a known price`);
  return facts.join(" · ");
}
