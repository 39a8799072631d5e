// Calls to the gateway.

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
export async function call(path, { method = "GET", body, signal } = {}) {
  const headers = new Headers({ Accept: "application/json" });
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  if (body) headers.set("Content-Type", "application/json");
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
  } catch (cause) {
    if (cause.name === "AbortError") throw new ApiError("You cancelled the chat.", { code: "cancelled" });
    throw new ApiError("The gateway is unreachable. Check that it is running.");
  }
  const date = Date.parse(response.headers.get("Date"));
  if (!Number.isNaN(date)) clockOffset = date - Date.now();
  const data = await response.json().catch(() => null);
  if (response.ok && data !== null) return data;
  const error = failure(response, data);
  if (response.status === 401) unauthorized(error);
  throw error;
}

/** The error of a response: `ChatResponseV1` or `application/problem+json`. */
function failure(response, data) {
  const error = data?.error ?? data ?? {};
  const message = error.message ?? error.detail ?? "The gateway sent an invalid response.";
  const seconds = Number(response.headers.get("Retry-After"));
  return new ApiError(message, {
    code: error.code ?? "internal",
    status: response.status,
    details: error.details ?? {},
    correlationId: data?.correlation_id ?? response.headers.get("X-Correlation-Id"),
    planId: data?.plan_id ?? null,
    retryAfter: seconds > 0 ? seconds : null,
  });
}
