import { html } from "../explore/elements.js";
import { significant } from "../explore/numbers.js";

/** The numbers of one operation, and what was found there. */

const TENSORS = { forward: "value", backward: "gradient" };

export class Readout {
  #table;
  #found;
  #model;

  constructor(table, found, model) {
    this.#table = table;
    this.#found = found;
    this.#model = model;
    const heads = model.manifest.statistics.map(({ label }) =>
      html("th", { scope: "col", class: "number" }, label),
    );
    table.tHead.replaceChildren(html("tr", {}, html("th", { scope: "col" }, "tensor"), ...heads));
  }

  /** Write about an operation; null is none. */
  write(at, step) {
    this.#table.hidden = at === null;
    this.#found.hidden = at === null;
    if (at === null) return;
    const model = this.#model;
    this.#table.tBodies[0].replaceChildren(
      ...model.ways.map((way) =>
        html(
          "tr",
          {},
          html("th", { scope: "row" }, TENSORS[way]),
          ...model.manifest.statistics.map(({ name }) =>
            html("td", { class: "number" }, told(name, model.number(way, name, step, at))),
          ),
        ),
      ),
    );
    const links = model.faults[at].map((fault) => {
      const { dataset } = document.getElementById(`fault-${fault}`);
      const button = { type: "button", "data-fault": fault };
      return html("button", button, `${fault + 1}: ${dataset.rule}`);
    });
    const none = model.faults[at].length ? "Found here:" : "No finding names this operation.";
    this.#found.replaceChildren(none, ...links.flatMap((link) => [" ", link]));
  }
}

function told(name, value) {
  if (name === "nonfinite" && !Number.isNaN(value)) return value.toLocaleString("en");
  return significant(value);
}
