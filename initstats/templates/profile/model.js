import { counted } from "../explore/numbers.js";

/** The measured model: its operations in the order of execution, and their numbers. */

export class Model {
  #block;

  constructor(manifest, block) {
    this.manifest = manifest;
    this.#block = block;
    this.count = manifest.names.length;
    this.ways = ["forward", "backward"].filter((way) => block.has(way));
    this.faults = Array.from({ length: this.count }, () => []);
    for (const [fault, places] of manifest.faults.entries()) {
      for (const at of places) this.faults[at].push(fault);
    }
  }

  /** What names an operation. */
  nameOf(at) {
    const { names, kinds, calls } = this.manifest;
    const again = calls[at] > 1 ? `, call ${calls[at]}` : "";
    return `${names[at]} (${kinds[at]}${again})`;
  }

  /** What an operation is, apart from its name. */
  about(at) {
    const { layers, shapes, dtypes } = this.manifest;
    return `layer ${layers[at]}, ${shapes[at]}, ${dtypes[at]}`;
  }

  /** A number at all operations. */
  values(way, statistic, step) {
    const [, steps, operations] = this.manifest.planes.find(({ name }) => name === way).shape;
    const start = (statistic * steps + step) * operations;
    return this.#block.plane(way).subarray(start, start + operations);
  }

  /** A number by the statistic's name. */
  number(way, name, step, at) {
    return this.values(way, this.statistic(name), step)[at];
  }

  statistic(name) {
    return this.manifest.statistics.findIndex((each) => each.name === name);
  }

  /** The statistics that are drawn, as positions among all. */
  get drawn() {
    const { statistics } = this.manifest;
    return statistics.flatMap(({ axis }, at) => (axis ? [at] : []));
  }

  /** Heights of a statistic on its axis; zero is infinitely low on a logarithmic one. */
  heights(way, statistic, step) {
    const values = this.values(way, statistic, step);
    const { axis } = this.manifest.statistics[statistic];
    return axis === "logarithmic" ? values.map(Math.log10) : values;
  }

  /** The modules that hold several operations, and the kinds of operations. */
  get choices() {
    const { names, kinds, weighted } = this.manifest;
    const counts = new Map();
    for (const name of names) {
      const parts = name.split(".");
      for (let end = 1; end <= parts.length; end++) {
        const module = parts.slice(0, end).join(".");
        counts.set(module, (counts.get(module) ?? 0) + 1);
      }
    }
    const modules = [...counts].filter(([, count]) => count > 1 && count < names.length);
    const some = weighted.some(Boolean) && !weighted.every(Boolean);
    return {
      modules: modules.map(([module, count]) => ({ module, told: counted(count, "operation") })),
      kinds: [...new Set(kinds)].sort(),
      weighted: some,
    };
  }

  /** The operations of a module, or whose name holds a text, and of a kind. */
  matching(module, kind) {
    const { names, kinds, weighted } = this.manifest;
    const text = module.trim().toLowerCase();
    const lower = names.map((name) => name.toLowerCase());
    const within = (name) => name === text || name.startsWith(`${text}.`);
    const exact = lower.some(within);
    const found = [];
    for (let at = 0; at < this.count; at++) {
      const named = !text || (exact ? within(lower[at]) : lower[at].includes(text));
      const wanted = kind === "" || kinds[at] === kind || (kind === WEIGHTED && weighted[at]);
      if (named && wanted) found.push(at);
    }
    return found;
  }
}

/** The choice of operations that have weights; no operation is called so. */
export const WEIGHTED = "with weights";
