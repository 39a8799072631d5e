// The OpenAPI document as a readable page.

import { call, hasToken } from "./api.js";
import { copyable, el, preview, sentence } from "./dom.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

export async function open(root, { signal }) {
  const heading = el("header", { class: "head" }, el("h2", {}, "API"));
  root.append(heading);
  let document;
  try {
    document = await call("/api/v1/openapi.json", { signal });
  } catch (error) {
    if (!signal.aborted && error.status !== 401) root.append(el("p", { class: "card notice" }, ...sentence(error.message)));
    return;
  }
  if (signal.aborted) return;
  const groups = grouped(document);
  const search = el("input", { type: "search", placeholder: "path, method or words", "aria-label": "Filter operations" });
  const nodes = [...groups].map(([tag, operations]) => ({ tag, operations: operations.map((operation) => operationView(operation, document)) }));
  const sections = nodes.map(({ tag, operations }) => el("section", { id: `tag-${anchor(tag)}` }, el("h3", { class: "quiet" }, tag), el("div", { class: "card rows" }, ...operations.map(({ node }) => node))));
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    nodes.forEach(({ operations }, index) => {
      operations.forEach(({ node, text }) => (node.hidden = !text.includes(wanted)));
      sections[index].hidden = operations.every(({ node }) => node.hidden);
    });
  });
  const { title, version, description } = document.info;
  heading.append(el("p", { class: "small" }, `${title} ${version}`), el("div", { class: "filters docs-search" }, search));
  root.append(...prose(description), ...sections);
  const wanted = location.hash && globalThis.document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (wanted) {
    wanted.open = true;
    wanted.scrollIntoView();
  }
}

/** Paragraphs of a description, with `**terms**` in bold. */
function prose(text) {
  const parts = (paragraph) => paragraph.split(/\*\*(.+?)\*\*/).flatMap((part, at) => (at % 2 === 1 ? el("strong", {}, part) : sentence(part)));
  return (text ?? "").split("\n\n").filter(Boolean).map((paragraph) => el("p", {}, ...parts(paragraph)));
}

const anchor = (text) => text.replace(/[^A-Za-z0-9]+/g, "-").toLowerCase();

function grouped({ paths }) {
  const groups = new Map();
  for (const [path, item] of Object.entries(paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      const operation = item[method];
      const tag = operation.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push({ path, method, ...operation, parameters: [...(item.parameters ?? []), ...(operation.parameters ?? [])] });
    }
  }
  return groups;
}

function operationView({ path, method, summary, description, parameters, requestBody, responses }, document) {
  const body = bodyOf(requestBody, document);
  const view = el("div", { class: "operation" });
  const node = el(
    "details",
    { id: anchor(`${method} ${path}`) },
    el("summary", {}, el("span", { class: "method", data: { method } }, method.toUpperCase()), el("code", {}, path), el("span", { class: "small" }, summary ?? "")),
    view,
  );
  // Filled when it is opened: the page has hundreds of schemas.
  node.addEventListener("toggle", () => {
    if (!node.open || view.hasChildNodes()) return;
    view.append(
      ...[
        ...prose(description),
        copyable("curl", curl(path, method, parameters, body?.example)),
        parameters.length > 0 && part("Parameters", parametersOf(parameters, document)),
        body && part("Body", preview(JSON.stringify(body.example, null, 2), { label: "Example of the body" }), schemaView("Schema", body.schema, document)),
        part("Responses", el("ul", { class: "stack" }, ...Object.entries(responses).map(([status, response]) => responseView(status, response, document)))),
      ].filter(Boolean),
    );
  });
  return { node, text: `${method} ${path} ${summary ?? ""} ${description ?? ""}`.toLowerCase() };
}

const part = (title, ...body) => el("div", { class: "part" }, el("h4", { class: "quiet" }, title), ...body);

function parametersOf(parameters, document) {
  const rows = parameters.map((parameter) => resolved(parameter, document)).flatMap(({ name, in: place, required, description }) => [
    el("dt", {}, el("code", {}, name), ` (${place}${required ? ", required" : ""})`),
    el("dd", {}, description ?? ""),
  ]);
  return el("dl", { class: "parameters" }, ...rows);
}

function responseView(status, given, document) {
  const response = resolved(given, document);
  const [schema] = Object.values(response.content ?? {}).map(({ schema: shape }) => shape);
  return el("li", {}, el("p", {}, el("strong", {}, status), " ", ...sentence(response.description ?? "")), schema && schemaView("Schema", schema, document));
}

function schemaView(title, schema, document) {
  const shown = el("details", {}, el("summary", { class: "small" }, title));
  shown.addEventListener("toggle", () => {
    if (shown.childElementCount === 1) shown.append(preview(JSON.stringify(expanded(schema, document), null, 2), { label: "Schema", limit: 6000 }));
  });
  return shown;
}

function bodyOf(given, document) {
  if (!given) return null;
  const { content } = resolved(given, document);
  const media = content["application/json"] ?? Object.values(content)[0];
  const [first] = Object.values(media.examples ?? {});
  return { schema: media.schema, example: media.example ?? first?.value ?? sample(media.schema, document) };
}

/** A schema whose references of the first levels are replaced by what they refer to. */
function expanded(schema, document, depth = 0) {
  if (Array.isArray(schema)) return schema.map((item) => expanded(item, document, depth));
  if (schema === null || typeof schema !== "object") return schema;
  if (schema.$ref && depth < 4) return expanded(resolved(schema, document), document, depth + 1);
  return Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, expanded(value, document, depth)]));
}

function resolved(value, document) {
  if (!value?.$ref) return value;
  const steps = value.$ref.slice(2).split("/").map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
  return steps.reduce((node, step) => node?.[step], document) ?? {};
}

/** A value that fits a schema: its required members. */
function sample(given, document, depth = 0) {
  const schema = resolved(given, document) ?? {};
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.length > 0) return schema.examples[0];
  if (schema.default !== undefined && schema.default !== null) return schema.default;
  if (schema.enum) return schema.enum[0];
  const variant = schema.oneOf?.[0] ?? schema.anyOf?.[0] ?? schema.allOf?.[0];
  if (variant && depth < 6) return sample(variant, document, depth + 1);
  const type = Array.isArray(schema.type) ? schema.type.find((name) => name !== "null") : schema.type;
  if (type === "object" || schema.properties) {
    const names = schema.required ?? Object.keys(schema.properties ?? {}).slice(0, 1);
    return depth > 5 ? {} : Object.fromEntries(names.map((name) => [name, sample(schema.properties?.[name], document, depth + 1)]));
  }
  if (type === "array") return depth > 5 ? [] : [sample(schema.items, document, depth + 1)];
  return { string: "text", integer: schema.minimum ?? 1, number: schema.minimum ?? 1, boolean: true }[type] ?? null;
}

/** A command line that sends the request. Quotes in the body survive the shell. */
function curl(path, method, parameters, body) {
  const url = `${location.origin}${path}`;
  const words = ["curl", "-s"];
  if (method !== "get") words.push("-X", method.toUpperCase());
  if (hasToken()) words.push("-H", '"Authorization: Bearer $ORCH_API_TOKEN"');
  if (body !== undefined && body !== null) words.push("-H", "'Content-Type: application/json'", "-d", quoted(JSON.stringify(body)));
  return [...words, quoted(url)].join(" ");
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
