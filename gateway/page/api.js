// The only place that talks to the gateway.

const TOKEN = "phoenix.token";

/** Why a call did not succeed, in the words of the gateway's error table. */
export class ApiError extends Error {
  constructor(message, facts = {}) {
    super(message);
    Object.assign(this, { code: "unreachable", status: 0, details: {}, retryAfter: null }, facts);
  }
}

let clockOffset = 0;
let unauthorized = () => {};

/** The gateway's clock, which deadlines are told in. */
export const serverNow = () => Date.now() + clockOffset;

/** Who is told when the gateway wants a token that it has not been given. */
export const onUnauthorized = (listener) => {
  unauthorized = listener;
};

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Sends a request and gives back its JSON, or throws an `ApiError`. */
export async function call(path, { method = "GET", body, signal } = {}) {
  const headers = new Headers({ Accept: "application/json" });
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  if (body) headers.set("Content-Type", "application/json");
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
  } catch (cause) {
    if (cause.name === "AbortError") throw new ApiError("You stopped waiting; the work was cancelled.", { code: "cancelled" });
    throw new ApiError("The gateway cannot be reached. Is it running?");
  }
  const date = Date.parse(response.headers.get("Date"));
  if (!Number.isNaN(date)) clockOffset = date - Date.now();
  const data = await response.json().catch(() => null);
  if (response.ok && data !== null) return data;
  const error = failure(response, data);
  if (response.status === 401) unauthorized(error);
  throw error;
}

/** A failure in either of its shapes: `ChatResponseV1`, or `application/problem+json`. */
function failure(response, data) {
  const told = data?.error ?? data ?? {};
  const message = told.message ?? told.detail ?? "The gateway answered in an unexpected way.";
  const seconds = Number(response.headers.get("Retry-After"));
  return new ApiError(message, {
    code: told.code ?? "internal",
    status: response.status,
    details: told.details ?? {},
    correlationId: data?.correlation_id ?? response.headers.get("X-Correlation-Id"),
    planId: data?.plan_id ?? null,
    retryAfter: seconds > 0 ? seconds : null,
  });
}
