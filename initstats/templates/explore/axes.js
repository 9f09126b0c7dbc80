import { svg } from "./elements.js";
import { minus, power, significant } from "./numbers.js";

/** Places in a picture: a flat axis of layers, an upright one of heights. */

/** The picture's size in a box that is so wide; text keeps its size. */
export function sizeOf(pixels, ratio) {
  const width = Math.max(240, Math.round(pixels));
  return { width, height: Math.round(Math.min(360, Math.max(210, width * ratio))) };
}

/** Some six round numbers between two. */
export function ticksOf(low, high, whole = false) {
  const rough = (high - low) / 6;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const fine = [1, 2, 5, 10].map((digit) => digit * magnitude).find((each) => each >= rough);
  const step = whole ? Math.max(1, Math.ceil(rough)) : fine;
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count > 0 ? count : 0 }, (_, at) => (first + at) * step);
}

/** The first layer, the last, and round numbers between, as many as there is room for. */
export function layerTicks(depth, pixels) {
  const least = (depth * 26) / pixels;
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
  const step = steps.find((each) => each >= least) ?? depth;
  const ticks = [1];
  for (let layer = step; layer < depth; layer += step) {
    if (layer > 1 + least * 0.8 && depth - layer > least * 0.8) ticks.push(layer);
  }
  return depth > 1 ? [...ticks, depth] : ticks;
}

/** A tick's label. */
export function tickLabel(height, logarithmic) {
  if (logarithmic) return power(height);
  const rounded = Number(height.toPrecision(6));
  const plain = Math.abs(rounded) < 1e5 && (rounded === 0 || Math.abs(rounded) >= 1e-3);
  return plain ? minus(String(rounded)) : significant(rounded, 1);
}

/** A plane for drawing, with margins, and the functions from layers and heights to pixels. */
export class Axes {
  /** @param there of each layer, whether anything is measured there; lines pass over others. */
  constructor({ left, right, top, bottom, depth, low, high, there }) {
    Object.assign(this, { left, right, top, bottom, depth, low, high, there });
  }

  x(layer) {
    const share = this.depth > 1 ? (layer - 1) / (this.depth - 1) : 0.5;
    return this.left + share * (this.right - this.left);
  }

  /** A height's place; what is infinite lies far outside. */
  y(height) {
    const share = (height - this.low) / (this.high - this.low);
    return this.bottom - Math.min(Math.max(share, -100), 100) * (this.bottom - this.top);
  }

  /** The layer at a place. */
  layerAt(x) {
    const share = (x - this.left) / (this.right - this.left);
    const layer = Math.round(1 + share * (this.depth - 1));
    return Math.min(this.depth, Math.max(1, layer));
  }

  /** Places of heights by layer; a single layer is as wide as the plane. */
  #places(heights) {
    if (this.depth > 1) {
      const places = Array.from(heights, (height, at) => [this.x(at + 1), height]);
      return places.filter((_, at) => this.there[at]);
    }
    return [this.left, this.right].map((x) => [x, heights[0]]);
  }

  /** A line through heights by layer; a NaN interrupts it. */
  line(heights) {
    let path = "";
    let pen = "M";
    for (const [x, height] of this.#places(heights)) {
      if (!Number.isNaN(height)) path += `${pen}${round(x)} ${round(this.y(height))}`;
      pen = Number.isNaN(height) ? "M" : "L";
    }
    return path;
  }

  /** The area between two lines, as far as both are known. */
  area(low, high) {
    const [below, above] = [this.#places(low), this.#places(high)];
    const parts = [[]];
    for (const [at, [, height]] of below.entries()) {
      if (Number.isNaN(height) || Number.isNaN(above[at][1])) parts.push([]);
      else parts.at(-1).push(at);
    }
    const corner = ([x, height]) => `${round(x)} ${round(this.y(height))}`;
    return parts
      .filter((places) => places.length > 1)
      .map((places) => {
        const there = places.map((at) => corner(below[at]));
        const back = places.toReversed().map((at) => corner(above[at]));
        return `M${[...there, ...back].join("L")}Z`;
      })
      .join("");
  }

  /** Rules and labels of the upright axis. */
  rules(ticks, label) {
    return ticks.map((tick) =>
      svg(
        "g",
        {},
        svg("line", {
          class: "rule",
          x1: this.left,
          x2: this.right,
          y1: this.y(tick),
          y2: this.y(tick),
        }),
        svg("text", { x: this.left - 7, y: this.y(tick) + 4, "text-anchor": "end" }, label(tick)),
      ),
    );
  }

  /** Labels of the flat axis. */
  layers() {
    const ticks = layerTicks(this.depth, this.right - this.left).map((layer) =>
      svg("text", { x: this.x(layer), y: this.bottom + 17, "text-anchor": "middle" }, `${layer}`),
    );
    const middle = (this.left + this.right) / 2;
    return [
      ...ticks,
      svg("text", { x: middle, y: this.bottom + 33, "text-anchor": "middle" }, "layer"),
    ];
  }

  /** A rule at a layer. */
  cursor(layer) {
    const x = this.x(layer);
    return svg("line", { class: "cursor", x1: x, x2: x, y1: this.top, y2: this.bottom });
  }
}

function round(pixels) {
  return pixels.toFixed(1);
}
