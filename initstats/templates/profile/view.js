import { WEIGHTED } from "./model.js";

/** What is shown, and how it is written in the address, so that a view can be sent. */

export class View {
  #model;

  constructor(model) {
    this.#model = model;
    this.reset();
  }

  /** What is shown at first. */
  reset() {
    const { steps, faults } = this.#model.manifest;
    [this.statistic] = this.#model.drawn;
    this.show = "both";
    this.step = steps.length - 1;
    this.module = "";
    this.kind = "";
    /** The operation that was chosen, and the one that is pointed at; null where there is none. */
    this.at = faults.flat()[0] ?? 0;
    this.preview = null;
    this.settle();
  }

  /** Find the operations that are shown, and choose one of them. */
  settle() {
    this.shown = this.#model.matching(this.module, this.kind);
    this.preview = null;
    if (this.shown.length && !this.shown.includes(this.at)) {
      this.at = this.shown.find((each) => each > this.at) ?? this.shown.at(-1);
    }
  }

  /** The operation that is told of; null where none is shown. */
  get current() {
    return this.shown.length ? (this.preview ?? this.at) : null;
  }

  /** The directions that are drawn. */
  get ways() {
    const { ways } = this.#model;
    return ways.includes(this.show) ? [this.show] : ways;
  }

  /** Choose the operation that so many places further is shown. */
  move(by) {
    const place = this.shown.indexOf(this.at) + by;
    this.at = this.shown[Math.min(Math.max(place, 0), this.shown.length - 1)] ?? this.at;
    this.preview = null;
  }

  /** Choose an operation, also one that is filtered out. */
  choose(at) {
    if (!this.shown.includes(at)) {
      this.module = "";
      this.kind = "";
    }
    this.at = at;
    this.settle();
  }

  /** The address's end: what differs from what is shown at first. */
  address() {
    const [here, there] = [this.#fields(), new View(this.#model).#fields()];
    const given = new URLSearchParams();
    for (const [name, value] of Object.entries(here)) {
      if (value !== there[name]) given.set(name, value);
    }
    return String(given);
  }

  #fields() {
    const { statistics, steps } = this.#model.manifest;
    return {
      statistic: statistics[this.statistic].name,
      show: this.show,
      step: String(steps[this.step]),
      module: this.module,
      kind: this.kind,
      at: this.#model.nameOf(this.at),
    };
  }

  /** Take over what an address says; what this page does not have is left as it is at first. */
  read(address) {
    this.reset();
    const { steps, kinds } = this.#model.manifest;
    const given = new URLSearchParams(address.replace(/^#/, ""));
    const statistic = this.#model.statistic(given.get("statistic"));
    if (this.#model.drawn.includes(statistic)) this.statistic = statistic;
    if (this.#model.ways.includes(given.get("show"))) this.show = given.get("show");
    const step = steps.indexOf(Number(given.get("step") ?? Number.NaN));
    if (step >= 0) this.step = step;
    this.module = given.get("module") ?? "";
    const kind = given.get("kind");
    if (kind === WEIGHTED || kinds.includes(kind)) this.kind = kind;
    const name = given.get("at");
    for (let at = 0; name && at < this.#model.count; at++) {
      if (this.#model.nameOf(at) === name) this.at = at;
    }
    this.settle();
  }
}
