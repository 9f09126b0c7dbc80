import { colourOf, html } from "./elements.js";
import { printed } from "./numbers.js";

/** The map: the page's table of verdicts, made a grid that is read and worked by keyboard. */

/** The share of colour that a cell of the greatest or smallest value has, percent. */
const TINT = 34;
const DECADES = 3;

export class Grid {
  #table;
  #cells;
  #across;
  #at = [1, 1];
  #painted = new Map();

  /**
   * @param table with a row of heads and a column of heads; its last column counts.
   * @param on `choose(row, column)`; `look(row, column)`, of a head one is null, of nothing both;
   *   `clear()`.
   */
  constructor(table, on) {
    this.#table = table;
    this.#cells = [...table.rows].map((row) => [...row.cells]);
    this.#across = this.#cells[0].length - 2;
    this.on = on;
    table.setAttribute("role", "grid");
    table.setAttribute("aria-multiselectable", "true");
    for (const [y, row] of this.#cells.entries()) {
      for (const [x, cell] of row.entries()) {
        cell.tabIndex = -1;
        cell.setAttribute("role", roleOf(y, x));
      }
    }
    this.#cells[1][1].tabIndex = 0;
    this.#listen();
  }

  /** Write verdicts or values, and which pairs are picked. */
  paint(cellAt, counts) {
    for (let y = 1; y < this.#cells.length; y++) {
      for (let x = 1; x <= this.#across; x++) {
        this.#write(this.#cells[y][x], cellAt(y - 1, x - 1));
      }
      this.#cells[y][this.#across + 1].textContent = counts[y - 1] ?? "—";
    }
  }

  /** Give the grid's tab stop the focus. */
  focus() {
    const [y, x] = this.#at;
    this.#cells[y][x].focus();
  }

  #write(element, { text, note = "", word, share = "", slot }) {
    const key = [text, note, word, share, slot].join("|");
    if (this.#painted.get(element) === key) return;
    this.#painted.set(element, key);
    element.replaceChildren(text, ...(note ? [html("small", {}, note)] : []));
    element.dataset.verdict = word;
    element.style.setProperty("--share", share);
    element.setAttribute("aria-selected", String(slot !== null));
    if (slot === null) delete element.dataset.badge;
    else element.dataset.badge = slot + 1;
    element.style.setProperty("--pin", slot === null ? "" : colourOf(slot));
  }

  #listen() {
    const table = this.#table;
    table.addEventListener("click", (event) => {
      const place = this.#placeOf(event.target);
      if (!place) return;
      this.#settle(place);
      this.#choose();
    });
    table.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") this.#look(this.#placeOf(event.target));
    });
    table.addEventListener("pointerleave", () => this.#look(null));
    table.addEventListener("focusin", (event) => {
      // a click has a focus of its own, and picks
      if (event.target.matches(":focus-visible")) this.#look(this.#placeOf(event.target));
    });
    table.addEventListener("focusout", () => this.#look(null));
    table.addEventListener("keydown", (event) => this.#press(event));
  }

  #press(event) {
    const [y, x] = this.#at;
    const last = [this.#cells.length - 1, this.#across];
    const goals = {
      ArrowUp: [y - 1, x],
      ArrowDown: [y + 1, x],
      ArrowLeft: [y, x - 1],
      ArrowRight: [y, x + 1],
      Home: event.ctrlKey ? [1, 1] : [y, 1],
      End: event.ctrlKey ? last : [y, last[1]],
      PageUp: [Math.min(y, 1), x],
      PageDown: [last[0], x],
    };
    const goal = goals[event.key];
    if (goal) {
      const within = (at, most) => Math.min(most, Math.max(0, at));
      const place = [within(goal[0], last[0]), within(goal[1], last[1] + 1)];
      if (place[0] || place[1]) this.#settle(place);
      this.focus();
    } else if (event.key === "Enter" || event.key === " ") this.#choose();
    else if (event.key === "Escape") this.on.clear();
    else return;
    event.preventDefault();
  }

  /** Move the grid's tab stop. */
  #settle([y, x]) {
    this.#cells[this.#at[0]][this.#at[1]].tabIndex = -1;
    this.#at = [y, x];
    this.#cells[y][x].tabIndex = 0;
  }

  #choose() {
    const [y, x] = this.#at;
    if (x <= this.#across) this.on.choose(y ? y - 1 : null, x ? x - 1 : null);
  }

  #look(place) {
    const [row, column] = (place ?? [0, 0]).map((at) => (at ? at - 1 : null));
    if (column !== null && column >= this.#across) this.on.look(null, null);
    else this.on.look(row, column);
  }

  #placeOf(target) {
    const cell = target.closest("td, th");
    if (!cell) return null;
    const place = [cell.parentNode.rowIndex, cell.cellIndex];
    return place[0] || place[1] ? place : null;
  }
}

function roleOf(y, x) {
  if (y && x) return "gridcell";
  if (y) return "rowheader";
  return x ? "columnheader" : "gridcell";
}

/** A value as a cell of the map: its text, its colour, and how strong that is. */
export function tinted(height, { name, logarithmic, shown }) {
  const share = logarithmic || name === "kurtosis" ? height / DECADES : height / shown[1];
  const strength = Number.isNaN(share) ? 0 : Math.min(1, Math.max(-1, share));
  // a power of ten leaves no room for two digits
  const size = logarithmic ? height : Math.log10(Math.abs(height));
  const digits = size > -DECADES && size < 4 ? 2 : 1;
  return {
    text: printed(height, logarithmic, digits),
    word: strength < 0 ? "low" : "high",
    share: `${Math.round(TINT * Math.abs(strength))}%`,
  };
}
