import { html } from "../explore/elements.js";
import { WEIGHTED } from "./model.js";

/** The switches: they show the view, and change it. */

export class Controls {
  #form;
  #view;
  #model;

  /** @param changed called after a switch has changed the view. */
  constructor(form, view, model, changed) {
    this.#form = form;
    this.#view = view;
    this.#model = model;
    const { statistics, steps } = model.manifest;
    const option = (value, text) => html("option", { value }, text);
    this.#fill("statistic", model.drawn, (at) => option(at, statistics[at].label));
    const { modules, kinds, weighted } = model.choices;
    const every = [option("", "all"), ...(weighted ? [option(WEIGHTED, WEIGHTED)] : [])];
    this.#field("kind").replaceChildren(...every, ...kinds.map((kind) => option(kind, kind)));
    this.#fill("modules", modules, ({ module, told }) => html("option", { value: module }, told));
    this.#field("step").max = steps.length - 1;
    this.#hide("step", steps.length < 2);
    this.#hide("show", model.ways.length < 2);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", ({ target }) => {
      this.#take(target);
      changed();
    });
    form.querySelector("[data-part=reset]").addEventListener("click", () => {
      view.reset();
      changed();
    });
    form.hidden = false;
  }

  /** Show the view. */
  write() {
    for (const name of ["statistic", "show", "step", "module", "kind"]) {
      const field = this.#field(name);
      if (field.value !== String(this.#view[name])) field.value = this.#view[name];
    }
    const { steps } = this.#model.manifest;
    const [step, last] = [steps[this.#view.step], steps.at(-1)];
    this.#form.querySelector("output").value = `${step} of ${last}`;
    this.#field("step").setAttribute("aria-valuetext", `step ${step}`);
  }

  #take({ name, value }) {
    const numeric = name === "statistic" || name === "step";
    this.#view[name] = numeric ? Number(value) : value;
    this.#view.settle();
  }

  #field(name) {
    return this.#form.querySelector(`[name="${name}"], [data-part="${name}"]`);
  }

  #hide(name, hidden) {
    this.#field(name).closest("label").hidden = hidden;
  }

  #fill(name, entries, option) {
    this.#field(name).replaceChildren(...entries.map(option));
  }
}
