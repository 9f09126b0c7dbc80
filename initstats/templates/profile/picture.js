import { Axes, sizeOf, tickLabel, ticksOf } from "../explore/axes.js";
import { svg } from "../explore/elements.js";

/** The profile: a panel for each direction, over the operations in the order of execution. */

const PANEL = 170;
const GAP = 30;
const BADGE = 17;
const TITLES = { forward: "values", backward: "gradients" };
/** The range of a linear axis is within this. */
const MOST = 5;
/** Pixels between two labels, and letters of a name. */
const LABELS = { apart: 16, letters: 18 };
/** Pixels upwards of a letter of a label, which leans. */
const LETTER = 5.2;

export class Picture {
  #box;
  #model;
  #axes = [];
  #shown = [];
  #heights = [];

  constructor(box, model) {
    this.#box = box;
    this.#model = model;
  }

  /** Draw what a view shows. */
  draw(view) {
    const { width } = sizeOf(this.#box.clientWidth, 1);
    const { statistic, step, shown } = view;
    this.#shown = shown;
    const across = { left: 58, right: width - 14, depth: shown.length };
    const badges = this.#badges(new Axes({ ...across, top: 0, bottom: 1, low: 0, high: 1 }));
    const top = 4 + BADGE * Math.max(0, ...badges.map(({ row }) => row + 1));
    this.#heights = view.ways.map((way) => this.#model.heights(way, statistic, step));
    this.#axes = view.ways.map((way, at) => {
      const start = top + 22 + at * (PANEL + GAP);
      const [low, high] = this.#range(way, statistic);
      return new Axes({ ...across, top: start, bottom: start + PANEL, low, high });
    });
    const foot = this.#axes.at(-1).bottom;
    const labels = this.#labels();
    const below = 24 + LETTER * Math.max(0, ...labels.map(({ text }) => text.length));
    const panels = view.ways.map((way, at) => this.#panel(way, at, view));
    const drawing = svg(
      "svg",
      { viewBox: `0 0 ${width} ${foot + below}`, "aria-hidden": "true" },
      ...badges.map(({ x, row, fault }) => numbered(x, top - BADGE * row - BADGE / 2, fault)),
      ...badges.map(({ x, row }) =>
        svg("line", { class: "mark", x1: x, x2: x, y1: top - BADGE * row, y2: foot }),
      ),
      ...panels,
      ...labels.map(({ text, place }) => leaning(text, this.#axes[0].x(place + 1) + 4, foot + 12)),
      svg("g", { class: "current" }),
    );
    this.#box.replaceChildren(drawing);
  }

  /** Show which operation is told of. */
  point(at) {
    const place = this.#shown.indexOf(at);
    const parts =
      place < 0 ? [] : this.#axes.flatMap((axes, number) => this.#ring(axes, number, place));
    this.#box.querySelector(".current")?.replaceChildren(...parts);
  }

  /** The operation at a place within the box; null where none is shown. */
  operationAt(x) {
    return this.#shown.length ? this.#shown[this.#axes[0].layerAt(x) - 1] : null;
  }

  #ring(axes, number, place) {
    const height = this.#heights[number][this.#shown[place]];
    const spot = { cx: axes.x(place + 1), cy: axes.y(within(height, axes)), r: 6.5 };
    const line = axes.cursor(place + 1);
    return Number.isNaN(height) ? [line] : [line, svg("circle", { class: "ring", ...spot })];
  }

  /** The heights that a panel shows, at whatever step. */
  #range(way, statistic) {
    const { statistics, steps } = this.#model.manifest;
    const { axis } = statistics[statistic];
    if (axis === "share") return [-0.02, 1.02];
    let [low, high] = axis === "correlation" ? [0, 1] : [-1, 1];
    for (let step = 0; step < steps.length; step++) {
      const heights = this.#model.heights(way, statistic, step);
      for (const at of this.#shown) {
        if (Number.isFinite(heights[at])) {
          low = Math.min(low, heights[at]);
          high = Math.max(high, heights[at]);
        }
      }
    }
    if (axis === "logarithmic") return [Math.floor(low), Math.ceil(high)];
    if (axis === "correlation") return [Math.max(low, -1) - 0.02, 1.02];
    return [Math.max(low, -MOST) - 0.1, Math.min(high, MOST) + 0.1];
  }

  #panel(way, number, { statistic, step }) {
    const axes = this.#axes[number];
    const heights = this.#heights[number];
    const { statistics, weighted } = this.#model.manifest;
    const { label, axis } = statistics[statistic];
    const logarithmic = axis === "logarithmic";
    const ticks = ticksOf(axes.low, axes.high, logarithmic);
    const lost = this.#model.values(way, this.#model.statistic("nonfinite"), step);
    const parts = { joined: "", weighted: "", other: "", edge: "", lost: "" };
    let pen = "M";
    this.#shown.forEach((at, place) => {
      const x = axes.x(place + 1).toFixed(1);
      if (lost[at] > 0) parts.lost += `M${x} ${axes.top}V${axes.bottom}`;
      const height = heights[at];
      if (Number.isNaN(height)) return;
      const y = axes.y(within(height, axes)).toFixed(1);
      if (weighted[at]) {
        parts.joined += `${pen}${x} ${y}`;
        pen = "L";
      }
      if (height < axes.low) parts.edge += `M${x} ${y}l-4 -7h8z`;
      else if (height > axes.high) parts.edge += `M${x} ${y}l-4 7h8z`;
      else parts[weighted[at] ? "weighted" : "other"] += `M${x} ${y}h0`;
    });
    return svg(
      "g",
      { class: way },
      svg("text", { class: "title", x: axes.left, y: axes.top - 7 }, `${TITLES[way]}: ${label}`),
      ...axes.rules(ticks, (tick) => tickLabel(tick, logarithmic)),
      ...Object.entries(parts).map(([name, d]) => svg("path", { class: name, d })),
    );
  }

  /** Numbers of findings above their places, in as many rows as they need. */
  #badges(axes) {
    const ends = [];
    return this.#shown.flatMap((at, place) =>
      this.#model.faults[at].map((fault) => {
        const x = axes.x(place + 1);
        const free = ends.findIndex((end) => end < x - BADGE);
        const row = free < 0 ? ends.length : free;
        ends[row] = x;
        return { x, row, fault };
      }),
    );
  }

  /** Names of operations with their kinds, as many as there is room for. */
  #labels() {
    const { left, right } = this.#axes[0];
    const { names, kinds } = this.#model.manifest;
    const room = Math.max(1, Math.floor((right - left) / LABELS.apart));
    const every = Math.ceil(this.#shown.length / room);
    return this.#shown.flatMap((at, place) => {
      if (place % every) return [];
      const name = names[at];
      const cut = name.length > LABELS.letters ? `…${name.slice(1 - LABELS.letters)}` : name;
      return [{ place, text: `${cut} ${kinds[at].slice(0, LABELS.letters)}` }];
    });
  }
}

function leaning(text, x, y) {
  const turned = `translate(${x.toFixed(1)} ${y}) rotate(-60)`;
  return svg("text", { class: "name", transform: turned, "text-anchor": "end" }, text);
}

function numbered(x, y, fault) {
  return svg(
    "g",
    { class: "fault" },
    svg("circle", { cx: x, cy: y, r: 7.5 }),
    svg("text", { class: "number", x, y: y + 4, "text-anchor": "middle" }, `${fault + 1}`),
  );
}

function within(height, { low, high }) {
  return Math.min(Math.max(height, low), high);
}
