/** What is shown, and how it is written in the address, so that a view can be sent. */

/** The greatest number of pairs that are picked one by one. */
export const MOST = 8;

export class State {
  #manifest;

  constructor(manifest) {
    this.#manifest = manifest;
    /** The pair that is looked at without being picked; null where there is none. */
    this.preview = null;
    this.reset();
  }

  /** By view, the statistics that the network has numbers of. */
  get known() {
    return this.#manifest.networks[this.network].known;
  }

  /** What is shown at first. */
  reset() {
    const { depth, limits, first } = this.#manifest;
    this.show = "verdict";
    this.statistic = 0;
    this.network = 0;
    // a stream is there at every layer, activations are not
    const streams = this.#manifest.views.findIndex(
      ({ tensor, direction }) => tensor === "stream" && direction === "forward",
    );
    this.view = this.known[streams]?.length ? streams : 0;
    this.layer = depth;
    this.limits = { ...limits };
    this.seeds = false;
    this.theory = true;
    this.whole = false;
    const found = first.map(([init, activation]) => this.cellOf(init, activation));
    const cells = found.filter((cell) => cell !== null);
    this.pins = (cells.length ? cells : [0]).map((cell, slot) => ({ cell, slot }));
    this.settle("view");
    this.missing = null;
  }

  /** Keep the statistic and what it is of to what the network has, after one of them was chosen. */
  settle(chosen) {
    const { known, view, statistic } = this;
    /** What was to be shown, and the network does not have; null where it has it. */
    this.missing = null;
    if (known[view].includes(statistic)) return;
    const elsewhere = known.findIndex((statistics) => statistics.includes(statistic));
    const has = known[view].length > 0;
    if (has && (chosen !== "statistic" || elsewhere < 0)) [this.statistic] = known[view];
    else if (elsewhere >= 0) this.view = elsewhere;
    else {
      this.view = Math.max(
        known.findIndex((statistics) => statistics.length),
        0,
      );
      [this.statistic = 0] = known[this.view];
    }
    if (chosen === "network" || !has || elsewhere < 0) this.missing = { view, statistic };
  }

  cellOf(init, activation) {
    const { inits, activations } = this.#manifest;
    const row = inits.indexOf(init);
    const column = activations.indexOf(activation);
    return row < 0 || column < 0 ? null : row * activations.length + column;
  }

  pairOf(cell) {
    const { inits, activations } = this.#manifest;
    const column = cell % activations.length;
    return { init: inits[(cell - column) / activations.length], activation: activations[column] };
  }

  nameOf(cell) {
    const { init, activation } = this.pairOf(cell);
    return `${init}, ${activation}`;
  }

  /** The number of a pair's colour; null where it is not picked. */
  slotOf(cell) {
    return this.pins.find((pin) => pin.cell === cell)?.slot ?? null;
  }

  /** Pick a pair, or let it go; of too many, the one that was picked first goes. */
  toggle(cell) {
    if (this.slotOf(cell) !== null) {
      this.pins = this.pins.filter((pin) => pin.cell !== cell);
      return;
    }
    if (this.pins.length >= MOST) this.pins.shift();
    const taken = new Set(this.pins.map(({ slot }) => slot));
    let slot = 0;
    while (taken.has(slot)) slot++;
    this.pins.push({ cell, slot });
  }

  /** Compare a whole row or column. */
  pick(cells) {
    this.pins = cells.map((cell, slot) => ({ cell, slot }));
  }

  /** The pins in the order of their numbers. */
  numbered() {
    return this.pins.toSorted((one, other) => one.slot - other.slot);
  }

  /** The address's end: what differs from what is shown at first. */
  address() {
    const start = new State(this.#manifest);
    const [here, there] = [this.#fields(), start.#fields()];
    const given = new URLSearchParams();
    for (const [name, value] of Object.entries(here)) {
      if (value !== there[name]) given.set(name, value);
    }
    const [names, first] = [this, start].map((state) =>
      state.numbered().map(({ cell }) => state.nameOf(cell)),
    );
    if (names.join("\n") !== first.join("\n")) {
      for (const name of names) given.append("pair", name);
      if (!names.length) given.set("pairs", "none");
    }
    return String(given);
  }

  #fields() {
    const { statistics, views, networks } = this.#manifest;
    const { tensor, direction } = views[this.view];
    const { network, width } = networks[this.network];
    return {
      map: this.show,
      statistic: statistics[this.statistic].name,
      of: `${tensor} ${direction}`,
      network: `${network} ${width}`,
      layer: String(this.layer),
      ...Object.fromEntries(Object.entries(this.limits).map(([name, x]) => [name, String(x)])),
      seeds: String(this.seeds),
      theory: String(this.theory),
      range: this.whole ? "whole" : "usual",
    };
  }

  /** Take over what an address says; what this page does not have is left as it is at first. */
  read(address) {
    this.reset();
    const { statistics, views, networks, choices, depth, inits, activations } = this.#manifest;
    const given = new URLSearchParams(address.replace(/^#/, ""));
    const among = (name, entries, label) => {
      const found = entries.findIndex((entry) => label(entry) === given.get(name));
      return found < 0 ? null : found;
    };
    if (given.get("map") === "value") this.show = "value";
    this.network =
      among("network", networks, (each) => `${each.network} ${each.width}`) ?? this.network;
    this.statistic = among("statistic", statistics, (each) => each.name) ?? this.statistic;
    this.view = among("of", views, (each) => `${each.tensor} ${each.direction}`) ?? this.view;
    this.settle("statistic");
    const layer = Number.parseInt(given.get("layer"), 10);
    if (layer >= 1 && layer <= depth) this.layer = layer;
    for (const [name, values] of Object.entries(choices)) {
      const chosen = Number(given.get(name));
      if (values.includes(chosen)) this.limits[name] = chosen;
    }
    this.seeds = given.get("seeds") === "true";
    this.theory = given.get("theory") !== "false";
    this.whole = given.get("range") === "whole";
    const names = given.getAll("pair");
    if (!names.length && given.get("pairs") !== "none") return;
    const cells = new Map();
    for (let cell = 0; cell < inits.length * activations.length; cell++) {
      cells.set(this.nameOf(cell), cell);
    }
    this.pick([...new Set(names)].map((name) => cells.get(name)).filter((cell) => cell >= 0));
  }
}
