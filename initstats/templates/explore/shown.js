import { heightToValue } from "./numbers.js";
import { Jury } from "./verdicts.js";

/** What the state asks for, looked up in the block: nothing here draws. */
export class Shown {
  constructor(manifest, block, state) {
    this.manifest = manifest;
    this.block = block;
    this.state = state;
    this.jury = new Jury(manifest, this.network, block, state.limits);
  }

  get statistic() {
    return this.manifest.statistics[this.state.statistic];
  }

  get view() {
    return this.manifest.views[this.state.view];
  }

  get network() {
    return this.manifest.networks[this.state.network];
  }

  /** Of each layer, whether the network has what is shown there. */
  get there() {
    const { depth } = this.manifest;
    return this.block
      .plane("layers")
      .subarray(this.state.view * depth)
      .subarray(0, depth);
  }

  /** Whether theory was asked, of this study. */
  get theory() {
    return this.block.has("theory");
  }

  /** The vote on a pair at the chosen depth. */
  vote(cell) {
    return this.jury.vote(cell, this.state.layer);
  }

  /** The height of a pair's mean at the chosen depth. */
  height(cell) {
    return this.#curve("mean", cell)[this.state.layer - 1];
  }

  #curve(name, cell) {
    return this.block.curve(name, this.state.view, this.state.statistic, cell);
  }

  /** What is drawn of a pair, by layer. */
  series({ cell, slot }) {
    const { view, statistic, seeds, theory } = this.state;
    const mean = this.#curve("mean", cell);
    const half = this.#curve("half", cell);
    return {
      cell,
      slot,
      mean,
      low: mean.map((height, at) => height - half[at]),
      high: mean.map((height, at) => height + half[at]),
      seeds: seeds && slot !== null ? this.block.seeds(view, statistic, cell) : [],
      theory: theory && this.theory ? this.#curve("theory", cell) : null,
    };
  }

  /** Quantiles of a pair, each by layer; null where they were not measured. */
  quantiles(cell) {
    if (!this.block.has("quantiles")) return null;
    const curve = (at) => [...this.block.curve("quantiles", this.state.view, at, cell)];
    return Object.fromEntries(this.manifest.quantiles.map((name, at) => [name, curve(at)]));
  }

  /** The histogram of the chosen layer of a pair; null where there is none. */
  histogram(cell) {
    const { tensor, direction } = this.view;
    const counted = tensor === "activation" && direction === "forward";
    if (!counted || !this.block.has("heights")) return null;
    const { view, layer } = this.state;
    const zeros = this.manifest.statistics.findIndex(({ name }) => name === "zero_fraction");
    return {
      heights: this.block.part("heights", cell, layer),
      span: this.block.part("span", cell, layer),
      zeros: zeros < 0 ? 0 : this.block.curve("mean", view, zeros, cell)[layer - 1],
    };
  }

  /** The numbers of a pair at the chosen depth. */
  numbers({ cell, slot }) {
    const { layer } = this.state;
    const { aspects, sources } = this.manifest;
    const deep = this.jury.reached(cell, layer) || layer;
    const rate = (name) =>
      [name, `${name}_half`].map((each) => this.block.part(each, cell, deep)[0]);
    return {
      cell,
      slot,
      name: this.state.nameOf(cell),
      vote: this.vote(cell),
      aspects: aspects.map((aspect) => this.jury.aspect(cell, layer, aspect)),
      story: this.jury.story(cell),
      height: [this.height(cell), this.#curve("half", cell)[layer - 1]],
      theory: this.theory ? this.#curve("theory", cell)[layer - 1] : Number.NaN,
      growth: rate("growth"),
      gradient: rate("gradient_growth"),
      source: sources[this.block.plane("source")[cell]],
    };
  }

  /** The curves as rows of values, with a row of heads. */
  rows() {
    const { networks, ...lists } = this.manifest;
    const { network, width } = this.network;
    const { tensor, direction } = this.view;
    const { name, logarithmic } = this.statistic;
    const theory = this.state.theory && this.theory;
    const value = (height) => (Number.isNaN(height) ? "" : heightToValue(height, logarithmic));
    const rows = this.state.numbered().flatMap((pin) => {
      const { mean, low, high, seeds, theory: told } = this.series(pin);
      const lines = [mean, low, high, ...(theory ? [told] : []), ...seeds];
      const { init, activation } = this.state.pairOf(pin.cell);
      return Array.from(mean, (_, at) => [
        ...[network, init, activation, width, at + 1, tensor, direction],
        this.jury.vote(pin.cell, at + 1).word,
        ...lines.map((line) => value(line[at])),
      ]);
    });
    const seeds = this.state.seeds ? lists.seeds.map((seed) => `seed_${seed}`) : [];
    const keys = ["network", "init", "activation", "width", "layer", "tensor", "direction"];
    const numbers = [name, "low", "high", ...(theory ? ["theory"] : []), ...seeds];
    return [[...keys, "verdict", ...numbers], ...rows];
  }
}
