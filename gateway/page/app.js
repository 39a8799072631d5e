// Entry point: the token, the chat, the agents, the views.

import { refreshAgents, watchAgents } from "./agents.js";
import { ApiError, call, hasToken, onUnauthorized, setToken } from "./api.js";
import { startComposer } from "./chats.js";
import { byId } from "./dom.js";
import { reopen, startRouter } from "./router.js";

function askForToken(error) {
  const form = byId("token-form");
  const isRetry = hasToken();
  byId("token-hint").textContent = isRetry
    ? `The server did not accept this token: ${error.message}.`
    : "The token stays in this browser tab and is deleted when you close it.";
  if (form.hidden) {
    form.hidden = false;
    byId("token").focus();
  }
}

function startTokenForm() {
  onUnauthorized(askForToken);
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(byId("token").value.trim());
    byId("token").value = "";
    byId("token-form").hidden = true;
    begin();
  });
}

/** Shows the configured language model. */
async function showModel() {
  try {
    const { llm_provider: provider, llm_model: model } = await call("/health");
    byId("model").textContent = modelName(provider, model);
    byId("model").hidden = false;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    byId("model").hidden = true;
  }
}

function modelName(provider, model) {
  // The executor chooses the provider per chat.
  if (provider === "auto") return "model: automatic";
  return provider === model || provider === "offline" ? `model: ${provider}` : `${provider} · ${model}`;
}

/** Opens the API description in a new tab. A link could not send the token. */
async function openDescription(event) {
  event.preventDefault();
  const { href } = event.currentTarget;
  try {
    const text = JSON.stringify(await call(href), null, 2);
    open(URL.createObjectURL(new Blob([text], { type: "application/json" })));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) byId("token").focus();
    else open(href);
  }
}

function begin() {
  showModel();
  refreshAgents();
  reopen();
}

startTokenForm();
startComposer();
byId("description").addEventListener("click", openDescription);
startRouter();
showModel();
watchAgents();
