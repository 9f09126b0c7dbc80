import { badge, html } from "./elements.js";
import { factor, printed } from "./numbers.js";
import { division } from "./verdicts.js";

/** The table of the drawn pairs at the chosen layer: the legend of the curves, and their numbers. */

export class Readout {
  #table;

  /** @param remove called with the pair that is to go. */
  constructor(table, remove) {
    this.#table = table;
    table.addEventListener("click", (event) => {
      const { cell } = event.target.closest("button")?.dataset ?? {};
      if (cell !== undefined) remove(Number(cell));
    });
  }

  /** Write a row for each pair. */
  write(pairs, { statistic, layer, theory, gradients }) {
    const heads = [
      ["pair"],
      [`verdict at layer ${layer}`],
      ["signal"],
      ["gradient"],
      ["distinctness"],
      ["with depth"],
      [`${statistic.label}, 95% interval`, "number"],
      ...(theory ? [["theory", "number"]] : []),
      ["growth per layer", "number"],
      ...(gradients ? [["gradient’s growth per layer", "number"]] : []),
    ];
    const head = heads.map(([text, kind]) => html("th", { scope: "col", class: kind }, text));
    head.push(html("td")); // of the buttons, which say what they do
    this.#table.tHead.replaceChildren(html("tr", {}, ...head));
    const rows = pairs.map((pair) => rowOf(pair, { ...statistic, theory, gradients }));
    this.#table.tBodies[0].replaceChildren(...rows);
    this.#table.hidden = !pairs.length;
  }

  /** Give the first button the focus; false where there is none. */
  focus() {
    const button = this.#table.querySelector("button");
    button?.focus();
    return Boolean(button);
  }
}

function rowOf(pair, { logarithmic, theory, gradients }) {
  const number = (...parts) => html("td", { class: "number" }, ...parts);
  const divided = division(pair.vote);
  const remove = html(
    "button",
    { type: "button", "data-cell": pair.cell, "aria-label": `remove ${pair.name}` },
    "×",
  );
  return html(
    "tr",
    {},
    html("th", { scope: "row" }, badge(pair.slot), ` ${pair.name}`),
    html("td", {}, pair.vote.word || "not measured", divided ? ` (${divided})` : ""),
    ...pair.aspects.map(({ word }) => html("td", {}, word)),
    html("td", { class: "story" }, pair.story),
    number(...interval(pair.height, (height) => printed(height, logarithmic))),
    theory ? number(printed(pair.theory, logarithmic)) : null,
    number(...interval(pair.growth, (rate) => factor(Math.exp(rate)))),
    gradients
      ? number(...interval(pair.gradient, (rate) => factor(Math.exp(rate))), bySource(pair.source))
      : null,
    html("td", {}, remove),
  );
}

/** Where a gradient is from that was not measured. */
function bySource(source) {
  return source === "theory" ? html("small", {}, "by theory") : "";
}

/** A mean with its interval, which a single seed does not have. */
function interval([mean, half], print) {
  if (Number.isNaN(half)) return [print(mean)];
  const ends = `${print(mean - half)} to ${print(mean + half)}`;
  return [print(mean), " ", html("small", {}, ends)];
}
