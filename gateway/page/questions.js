// Questions of an agent: a form made of their schemas, and the answers that it holds.

import { InputError } from "./dialog.js";
import { el } from "./dom.js";
import { parseJson } from "./json.js";
import { field, select } from "./plans.js";

const MEMBER = "phoenix/questions";
const FORMATS = { email: "email", uri: "url", date: "date" };

/** Questions that a task waits with, as names with a message and the schema of the answer. */
export const questionsOf = (input) => Object.entries(input?.[MEMBER]?.asked ?? {});

/** The input of a task without its questions: the arguments of the tool. */
export function argumentsOf(input) {
  const { [MEMBER]: asked, ...own } = input;
  return own;
}

/** A form for `questions`. `read` returns the answers by name, null for one that is declined, or throws an InputError. */
export function questionForm(questions) {
  const parts = questions.map(([name, question]) => questionPart(name, question));
  return { nodes: parts.map(({ node }) => node), read: () => Object.fromEntries(parts.map(({ name, read }) => [name, read()])) };
}

function questionPart(name, { message, schema }) {
  const required = new Set(Array.isArray(schema?.required) ? schema.required : []);
  const members = Object.entries(schema?.properties ?? {}).map(([key, rules]) => member(key, rules ?? {}, required.has(key)));
  const fields = el("div", { class: "stack" }, ...members.map(({ node }) => node));
  const decline = el("input", { type: "checkbox" });
  const inner = el("fieldset", { class: "answers" }, fields);
  decline.addEventListener("change", () => {
    inner.disabled = decline.checked;
  });
  const node = el("fieldset", { class: "question" }, el("legend", {}, message || name), inner, el("label", { class: "check" }, decline, el("span", {}, "Decline this question")));
  const read = () => {
    if (decline.checked) return null;
    const values = members.map(({ key, value }) => [key, value()]).filter(([, value]) => value !== undefined);
    return Object.fromEntries(values);
  };
  return { name, node, read };
}

/** The control of one member of an answer. `value` is undefined where nothing is said. */
function member(key, rules, isRequired) {
  const title = typeof rules.title === "string" ? rules.title : key;
  const { control, value } = controlOf(rules, isRequired, title);
  const hint = typeof rules.description === "string" && rules.description !== "" && el("span", { class: "small" }, rules.description);
  const label = isRequired ? title : `${title} (optional)`;
  const node = control.tagName === "FIELDSET" ? control : field(label, control);
  if (hint) node.append(hint);
  return { key, node, value };
}

function controlOf(rules, isRequired, title) {
  const choices = choicesOf(rules);
  if (rules.type === "array" && choicesOf(rules.items ?? {}).length > 0) return several(rules, title);
  if (choices.length > 0) return one(choices, rules.default, isRequired);
  if (rules.type === "boolean") return one([[true, "yes"], [false, "no"]], rules.default, isRequired);
  if (rules.type === "number" || rules.type === "integer") return number(rules, isRequired);
  if (rules.type === "string") return string(rules, isRequired);
  return anything(rules, isRequired, title);
}

/** Values with their titles. */
function choicesOf(rules) {
  const titled = rules.oneOf ?? rules.anyOf;
  if (Array.isArray(titled) && titled.every((choice) => choice && "const" in choice)) return titled.map((choice) => [choice.const, String(choice.title ?? choice.const)]);
  if (!Array.isArray(rules.enum)) return [];
  return rules.enum.map((choice, index) => [choice, String(rules.enumNames?.[index] ?? choice)]);
}

function one(choices, preset, isRequired) {
  const options = choices.map(([, text], index) => [String(index), text]);
  const chosen = choices.findIndex(([choice]) => choice === preset);
  const control = select("", [["", isRequired ? "choose" : "no answer"], ...options], chosen < 0 ? "" : String(chosen));
  control.required = isRequired;
  return { control, value: () => (control.value === "" ? undefined : choices[Number(control.value)][0]) };
}

function several(rules, title) {
  const choices = choicesOf(rules.items).map(([choice, text]) => {
    const box = el("input", { type: "checkbox" });
    box.checked = Array.isArray(rules.default) && rules.default.includes(choice);
    return { choice, box, node: el("label", { class: "check" }, box, el("span", {}, text)) };
  });
  const control = el("fieldset", {}, el("legend", {}, title), ...choices.map(({ node }) => node));
  return { control, value: () => choices.filter(({ box }) => box.checked).map(({ choice }) => choice) };
}

function number(rules, isRequired) {
  const control = el("input", { type: "number", step: rules.type === "integer" ? "1" : "any", required: isRequired, inputmode: "decimal", value: rules.default ?? "" });
  if (typeof rules.minimum === "number") control.min = rules.minimum;
  if (typeof rules.maximum === "number") control.max = rules.maximum;
  return { control, value: () => (control.value === "" ? undefined : Number(control.value)) };
}

function string(rules, isRequired) {
  const control = el("input", { type: FORMATS[rules.format] ?? "text", required: isRequired, autocomplete: "off", value: rules.default ?? "" });
  if (rules.format === "date-time") control.placeholder = "2026-01-31T12:00:00Z";
  if (Number.isInteger(rules.minLength)) control.minLength = rules.minLength;
  if (Number.isInteger(rules.maxLength)) control.maxLength = rules.maxLength;
  return { control, value: () => (control.value === "" ? undefined : control.value) };
}

/** What no other control can hold is written as JSON. */
function anything(rules, isRequired, title) {
  const control = el("textarea", { rows: "3", required: isRequired, class: "mono", placeholder: "JSON" });
  if (rules.default !== undefined) control.value = JSON.stringify(rules.default);
  const value = () => {
    if (control.value.trim() === "") return undefined;
    try {
      return parseJson(control.value);
    } catch {
      throw new InputError(`${title} is not JSON`);
    }
  };
  return { control, value };
}
