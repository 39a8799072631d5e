// Calls to the gateway.

import { jsonOf, parseJson } from "./json.js";

const TOKEN = "phoenix.token";

/** Error of a call, with a code of the gateway's error table. */
export class ApiError extends Error {
  constructor(message, facts = {}) {
    super(message);
    Object.assign(this, { code: "unreachable", status: 0, details: {}, retryAfter: null }, facts);
  }
}

let clockOffset = 0;
let unauthorized = () => {};

/** Time of the gateway's clock, which its timestamps refer to. */
export const serverNow = () => Date.now() + clockOffset;

/** Sets the listener for responses that require a token. */
export const onUnauthorized = (listener) => {
  unauthorized = listener;
};

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Sends a request and returns its JSON, or throws an `ApiError`. */
export async function call(path, options) {
  const response = await send(path, "application/json", options);
  const data = await jsonOf(response);
  if (response.ok && data !== null) return data;
  throw refused(response, data);
}

/** Sends a chat and returns its answer, or throws an `ApiError`. `live` gets what the agent says before. */
export async function chat(body, { signal, live }) {
  const response = await send("/api/v1/chat", "text/event-stream", { method: "POST", body, signal });
  if (!response.ok || !response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    throw refused(response, await jsonOf(response));
  }
  try {
    for await (const { event, data } of serverSentEvents(response.body)) {
      if (event !== "response") live(event, data);
      else if (data.status === "success") return data;
      else throw failure(response, data, 0);
    }
  } catch (cause) {
    throw cause instanceof ApiError ? cause : broken(cause);
  }
  throw broken();
}

/** Downloads a file, or throws an `ApiError`. */
export async function download(path) {
  const response = await send(path, "*/*");
  if (!response.ok) throw refused(response, await jsonOf(response));
  return response.blob();
}

/** Name, id and JSON of each event of a stream, or throws an `ApiError`. Ends with the stream. */
export async function* events(path, { signal }) {
  const response = await send(path, "text/event-stream", { signal });
  if (response.status === 204) return;
  if (!response.ok) throw refused(response, await jsonOf(response));
  try {
    yield* serverSentEvents(response.body);
  } catch (cause) {
    throw cause instanceof ApiError ? cause : broken(cause);
  }
}

async function send(path, accept, { method = "GET", body, signal, headers: more } = {}) {
  const headers = new Headers({ Accept: accept, ...more });
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  if (body) headers.set("Content-Type", "application/json");
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
  } catch (cause) {
    throw broken(cause);
  }
  const date = Date.parse(response.headers.get("Date"));
  if (!Number.isNaN(date)) clockOffset = date - Date.now();
  return response;
}

/** Name and JSON of each event of a stream. */
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split("\n").find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1).trimStart();
      if (field("data")) yield { event: field("event"), id: field("id"), data: parseJson(field("data")) };
    }
  }
}

function broken(cause) {
  if (cause?.name === "AbortError") return new ApiError("You cancelled the request.", { code: "cancelled" });
  return new ApiError("The gateway is unreachable. Check that it is running.");
}

function refused(response, data) {
  const error = failure(response, data, response.status);
  if (response.status === 401) unauthorized(error);
  return error;
}

/** The error of a response: `ChatResponseV1` or `application/problem+json`. */
function failure(response, data, status) {
  const error = data?.error ?? data ?? {};
  const message = error.message ?? error.detail ?? "The gateway sent an invalid response.";
  const seconds = Number(response.headers.get("Retry-After"));
  return new ApiError(message, {
    code: error.code ?? "internal",
    status,
    details: error.details ?? {},
    correlationId: data?.correlation_id ?? response.headers.get("X-Correlation-Id"),
    planId: data?.plan_id ?? null,
    retryAfter: seconds > 0 ? seconds : null,
  });
}
