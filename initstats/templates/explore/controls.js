import { html } from "./elements.js";
import { without } from "./words.js";

/** The switches: they show the state, and change it. */

const LIMITS = { factor: "number", correlation: "number", gradient_factor: "number" };

export class Controls {
  #form;
  #manifest;

  /** @param changed called after a switch has changed the state. */
  constructor(form, state, manifest, changed) {
    this.#form = form;
    this.#manifest = manifest;
    this.state = state;
    const { statistics, views, networks, choices } = manifest;
    this.#fill(
      "statistic",
      statistics.map(({ label }) => label),
    );
    this.#fill(
      "view",
      views.map(({ label }) => label),
    );
    const several = new Set(networks.map(({ network }) => network)).size > 1;
    const named = ({ network, width }) => (several ? `${network}, width ${width}` : `${width}`);
    this.#fill("network", networks.map(named));
    if (several) this.#field("network").previousElementSibling.textContent = "network";
    for (const name of Object.keys(LIMITS)) this.#fill(name, choices[name], true);
    const planes = manifest.planes.map(({ name }) => name);
    this.#hide("network", networks.length < 2);
    this.#hide("theory", !planes.includes("theory"));
    this.#hide("seeds", manifest.seeds.length < 2);
    this.#hide("layer", manifest.depth < 2);
    this.#field("layer").max = manifest.depth;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", ({ target }) => {
      this.#take(target);
      changed();
    });
    form.hidden = false;
  }

  /** Show the state. */
  write() {
    const { state } = this;
    for (const element of this.#form.querySelectorAll("select, input")) {
      const value = element.name in state.limits ? state.limits[element.name] : state[element.name];
      if (element.type === "checkbox") element.checked = value;
      else element.value = value;
    }
    this.#offer();
    const { reason } = this.#manifest.networks[state.network];
    this.#field("layer").previousElementSibling.textContent = reason ? "layer" : "depth";
    this.#form.querySelector("output").value = `${state.layer} of ${this.#field("layer").max}`;
  }

  /** Let what the network has be chosen, and say of the rest why it cannot be. */
  #offer() {
    const { known, network } = this.state;
    const { networks, views, statistics } = this.#manifest;
    const numbers = new Set(known.flat());
    const offer = (name, entries, has) => {
      for (const option of this.#field(name).options) {
        option.disabled = !has(option.index);
        const reason = without(networks[network], entries[option.index].label);
        option.title = option.disabled ? reason : "";
      }
    };
    offer("view", views, (view) => known[view].length > 0);
    offer("statistic", statistics, (statistic) => numbers.has(statistic));
  }

  #take(element) {
    const { name, type, checked, value } = element;
    const { state } = this;
    if (type === "checkbox") state[name] = checked;
    else if (name in state.limits) state.limits[name] = Number(value);
    else state[name] = name === "show" ? value : Number(value);
    state.settle(name);
  }

  #field(name) {
    return this.#form.elements.namedItem(name);
  }

  #hide(name, hidden) {
    this.#field(name).closest("label").hidden = hidden;
  }

  #fill(name, texts, own = false) {
    const options = texts.map((text, at) => html("option", { value: own ? text : at }, `${text}`));
    this.#field(name).replaceChildren(...options);
  }
}
