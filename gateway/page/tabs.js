// Tabs: https://www.w3.org/WAI/ARIA/apg/patterns/tabs/.

import { el } from "./dom.js";

/** Tabs with `{ name: [title, node] }`. `chosen` gets the name of a tab that is selected. */
export function tabs(label, panels, first, chosen) {
  const names = Object.keys(panels);
  const bar = el("div", { class: "tabs", role: "tablist", "aria-label": label });
  const parts = names.map((name) => {
    const [title, node] = panels[name];
    const tab = el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}` }, title);
    const panel = el("div", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}` }, node);
    tab.addEventListener("click", () => select(name));
    return { name, tab, panel };
  });
  const select = (wanted, { isQuiet = false } = {}) => {
    for (const { name, tab, panel } of parts) {
      const isSelected = name === wanted;
      tab.setAttribute("aria-selected", String(isSelected));
      tab.tabIndex = isSelected ? 0 : -1;
      panel.hidden = !isSelected;
    }
    if (!isQuiet) chosen(wanted);
  };
  bar.addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const index = parts.findIndex(({ panel }) => !panel.hidden);
    const next = parts[(index + step + parts.length) % parts.length];
    select(next.name);
    next.tab.focus();
  });
  bar.append(...parts.map(({ tab }) => tab));
  select(names.includes(first) ? first : names[0], { isQuiet: true });
  return el("div", { class: "tabbed" }, bar, ...parts.map(({ panel }) => panel));
}
