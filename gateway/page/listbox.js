// Keyboard and selection of a list whose items are options: one tab stop, arrow keys move, the moved-to option is selected.

/**
 * Makes `box` a listbox. `count()` is its number of options, `reveal(index)` shows one and returns its element, `choose(index)`
 * reacts to a selection.
 */
export function listbox(box, { label, count, reveal, choose }) {
  let active = -1;
  box.setAttribute("role", "listbox");
  box.setAttribute("aria-label", label);
  box.tabIndex = 0;
  const mark = (index, { scroll = true } = {}) => {
    active = index;
    box.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
    const option = index >= 0 && index < count() ? reveal(index, scroll) : null;
    option?.setAttribute("aria-selected", "true");
    if (option) box.setAttribute("aria-activedescendant", option.id);
    else box.removeAttribute("aria-activedescendant");
  };
  const move = (index) => {
    const next = Math.max(0, Math.min(count() - 1, index));
    if (count() === 0) return;
    mark(next);
    choose(next);
  };
  box.addEventListener("keydown", (event) => {
    const page = 10;
    const to = {
      ArrowDown: active + 1,
      ArrowUp: active - 1,
      PageDown: active + page,
      PageUp: active - page,
      Home: 0,
      End: count() - 1,
    }[event.key];
    if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move(to);
  });
  box.addEventListener("click", (event) => {
    const option = event.target.closest('[role="option"]');
    if (option && box.contains(option)) move(Number(option.dataset.index));
  });
  return { mark, active: () => active };
}
