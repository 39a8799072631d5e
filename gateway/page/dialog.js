// Questions before actions that change something.

import { ApiError } from "./api.js";
import { el, sentence } from "./dom.js";

/**
 * Asks for a confirmation and runs `act` with the form's values. The dialog stays open with the error when `act` fails.
 * `fields` are labels with controls that have a `name`. Resolves with the result of `act`, or null when it was closed.
 */
export function confirmed({ title, text, button, isDangerous = false, fields = [], act }) {
  return new Promise((resolve) => {
    const problem = el("p", { class: "problem", role: "alert" });
    const go = el("button", { type: "submit", class: isDangerous ? "primary danger" : "primary" }, button);
    const form = el("form", {}, el("h2", { id: "dialog-title" }, title), text && el("p", {}, text), ...fields, problem);
    const close = el("button", { type: "button", class: "plain" }, "Close");
    form.append(el("div", { class: "row dialog-buttons" }, close, go));
    const dialog = el("dialog", { class: "card", "aria-labelledby": "dialog-title" }, form);
    let result = null;
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      go.disabled = true;
      problem.textContent = "";
      try {
        result = (await act(Object.fromEntries(new FormData(form)))) ?? true;
        dialog.close();
      } catch (error) {
        if (!(error instanceof ApiError) && !(error instanceof InputError)) throw error;
        problem.replaceChildren(...sentence(error.message));
      } finally {
        go.disabled = false;
      }
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Input of a dialog that cannot be used. */
export class InputError extends Error {}

/** A field for a reason. */
export const reasonField = (isRequired = false) =>
  el(
    "label",
    {},
    el("span", {}, isRequired ? "Reason" : "Reason (optional)"),
    el("input", { name: "reason", maxlength: "1024", autocomplete: "off", required: isRequired }),
  );
