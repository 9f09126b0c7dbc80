/** Verdicts on stacks of so many layers by limits that can be moved: comparisons and votes. */

/** One bit of the flags tells that a place was measured. */
const THERE = 1;
const TELLS = { signal: "rms", gradient: "gradient", distinctness: "correlation" };

export class Jury {
  #block;
  #rules;
  #depth;
  #seeds;
  #shallow;

  /** @param network an entry of the manifest. */
  constructor(manifest, network, block, limits) {
    this.manifest = manifest;
    this.#block = block;
    // only then are the first n layers a network of n layers, which a verdict may be about
    this.#shallow = !network.reason;
    this.#depth = manifest.depth;
    this.#seeds = manifest.seeds.length;
    this.#rules = manifest.verdicts.map((verdict) => ({
      ...verdict,
      holds: this.#rule(verdict, limits),
    }));
  }

  /** Whether a verdict holds at a place, as Python compares numbers of 32 bits. */
  #rule({ bit, number, is, limit }, limits) {
    const flags = this.#block.plane("flags");
    if (bit) return (place) => (flags[place] & bit) !== 0;
    if (!number) return () => true;
    const values = this.#block.plane(number);
    const bound = Math.fround(is === "below" ? 1 / limits[limit] : limits[limit]);
    if (is === "below") return (place) => values[place] < bound;
    if (is === "above") return (place) => values[place] > bound;
    return (place) => values[place] >= bound;
  }

  /** The deepest measured layer up to this one; 0 where there is none. */
  reached(cell, layer) {
    const flags = this.#block.plane("flags");
    for (let deep = layer; deep > 0; deep--) {
      const start = (cell * this.#depth + deep - 1) * this.#seeds;
      for (let place = start; place < start + this.#seeds; place++) {
        if (flags[place] & THERE) return deep;
      }
    }
    return 0;
  }

  /** The layers that a verdict is about where this one is chosen. */
  judgedAt(layer) {
    return this.#shallow ? layer : this.#depth;
  }

  /** The vote of the seeds on a stack: the word, its votes of how many seeds, and what ties. */
  vote(cell, layer) {
    const words = this.#rules.map(({ name }) => name);
    return this.#count(cell, layer, words, (place) =>
      this.#rules.findIndex(({ holds }) => holds(place)),
    );
  }

  /** The vote on one aspect of a stack. */
  aspect(cell, layer, aspect) {
    const own = this.#rules.filter((rule) => rule.aspect === aspect);
    const { healthy, unknown } = this.manifest;
    const told = this.#block.plane(TELLS[aspect]);
    const words = [...own.map(({ name }) => name), healthy, unknown];
    return this.#count(cell, layer, words, (place) => {
      const met = own.findIndex(({ holds }) => holds(place));
      if (met >= 0) return met;
      return Number.isNaN(told[place]) ? own.length + 1 : own.length;
    });
  }

  #count(cell, layer, words, choose) {
    const deep = this.reached(cell, this.judgedAt(layer));
    if (!deep) return { word: "", votes: 0, seeds: 0, tied: [] };
    const counts = new Uint16Array(words.length);
    const flags = this.#block.plane("flags");
    const start = (cell * this.#depth + deep - 1) * this.#seeds;
    let seeds = 0;
    for (let place = start; place < start + this.#seeds; place++) {
      if (!(flags[place] & THERE)) continue;
      seeds++;
      counts[choose(place)]++;
    }
    const votes = Math.max(...counts);
    const [word, ...tied] = words.filter((_, at) => counts[at] === votes);
    return { word, votes, seeds, tied };
  }

  /** What becomes of a stack with depth, in words. */
  story(cell) {
    const { healthy } = this.manifest;
    const end = this.reached(cell, this.#depth);
    const words = Array.from({ length: end }, (_, at) => this.vote(cell, at + 1).word);
    const last = words.at(-1);
    if (last === undefined) return "not measured";
    if (!this.#shallow) return `judged at ${end} layers only`;
    if (last === healthy) {
      const from = words.findLastIndex((word) => word !== healthy) + 2;
      return from === 1 ? "healthy at every depth" : `healthy from layer ${from}`;
    }
    const from = words.lastIndexOf(healthy) + 2;
    const first = words[from - 1];
    const start = from === 1 ? "from the first layer" : `from layer ${from}`;
    return first === last ? `${last} ${start}` : `${first} ${start}, ${last} at the end`;
  }
}

/** How a vote went: empty where all seeds agree. */
export function division({ word, votes, seeds, tied }) {
  if (votes === seeds) return "";
  const share = `${votes} of ${seeds}`;
  return tied.length ? `tie: ${[word, ...tied].join(", ")}, ${share} each` : `${share} seeds`;
}
