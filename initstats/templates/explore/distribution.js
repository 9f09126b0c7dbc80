import { Axes, sizeOf, tickLabel, ticksOf } from "./axes.js";
import { svg } from "./elements.js";
import { power } from "./numbers.js";

/** The distribution of a pair by depth as a fan of quantiles, and one layer's histogram. */

/** Orders of magnitude from which on the axis is logarithmic away from zero. */
const CURVED = 40;
const FANS = [
  ["q01", "q99", 0.22],
  ["q05", "q95", 0.3],
  ["q25", "q75", 0.45],
];
const FULL = 255;

/**
 * Draw a pair into a box that is so many pixels wide.
 *
 * @param quantiles by name, each by layer.
 * @param histogram `heights`, `span` and `zeros` (a share) of the layer; null where there is none.
 */
export function drawDistribution(box, pixels, quantiles, histogram, { depth, layer, there }) {
  const { width, height } = sizeOf(pixels, 0.66);
  const right = histogram ? Math.round(width * 0.58) : width - 12;
  const margins = { left: 50, right, top: 10, bottom: height - 40 };
  const scale = new Bent(quantiles);
  const axes = new Axes({ ...margins, depth, low: scale.low, high: scale.high, there });
  const heights = (name) => quantiles[name].map((value) => scale.height(value));
  const fans = FANS.map(([low, high, opacity]) =>
    svg("path", { class: "fan", d: axes.area(heights(low), heights(high)), opacity }),
  );
  box.replaceChildren(
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
      ...axes.rules(scale.ticks(), (tick) => scale.label(tick)),
      ...axes.layers(),
      ...fans,
      svg("path", { class: "median", d: axes.line(heights("q50")) }),
      axes.cursor(layer),
      ...(histogram ? bars(axes, width, layer, histogram) : []),
    ),
  );
}

/** An axis that is linear, or logarithmic away from zero where values span many magnitudes. */
class Bent {
  constructor(quantiles) {
    const sizes = (names) =>
      names.flatMap((name) => [...quantiles[name]].map(Math.abs).filter(Number.isFinite));
    this.most = Math.max(...sizes(["q01", "q99"]), 1e-37);
    const spreads = [...quantiles.q75].map((value, at) => value - quantiles.q25[at]);
    const least = Math.min(...spreads.filter((spread) => spread > 0), this.most);
    this.least = Math.max(least, this.most * 1e-7);
    this.curved = this.most / this.least > CURVED;
    this.high = this.height(this.most);
    this.low = quantiles.q01.some((value) => value < 0) ? -this.high : 0;
  }

  height(value) {
    return this.curved ? Math.asinh(value / this.least) : value;
  }

  label(height) {
    if (!this.curved || height === 0) return tickLabel(height, false);
    const exponent = Math.round(Math.log10(Math.sinh(Math.abs(height)) * this.least));
    return `${height < 0 ? "−" : ""}${power(exponent)}`;
  }

  ticks() {
    if (!this.curved) return ticksOf(this.low, this.high);
    const top = Math.floor(Math.log10(this.most));
    const decades = Math.log10(this.most / this.least);
    const step = Math.max(1, Math.round(decades / 3));
    const ticks = [0];
    for (let exponent = top; 10 ** exponent > this.least * 2; exponent -= step) {
      const height = this.height(10 ** exponent);
      ticks.push(height);
      if (this.low < 0) ticks.push(-height);
    }
    return ticks;
  }
}

function bars(axes, width, layer, { heights, span, zeros }) {
  const left = axes.right + 56;
  const full = width - left - 8;
  const thick = (axes.bottom - axes.top) / heights.length;
  const path = [...heights].map((height, at) => {
    const y = axes.bottom - (at + 1) * thick;
    const length = (height / FULL) * full;
    return height
      ? `M${left} ${y.toFixed(1)}h${length.toFixed(1)}v${(thick * 0.85).toFixed(1)}h${-length.toFixed(1)}Z`
      : "";
  });
  const known = !Number.isNaN(span[0]);
  const y = (value) =>
    axes.bottom - ((value - span[0]) / (span[1] - span[0])) * (axes.bottom - axes.top);
  const label = (value) =>
    svg("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, tickLabel(value, false));
  const ticks = known ? ticksOf(span[0], span[1]) : [];
  const zero = known && span[0] <= 0 && span[1] >= 0 ? y(0) : axes.bottom;
  return [
    svg("path", { class: "fan", d: path.join("") }),
    svg("line", { class: "rule", x1: left, x2: left, y1: axes.top, y2: axes.bottom }),
    zeros > 0
      ? svg("line", { class: "zeros", x1: left, x2: left + zeros * full, y1: zero, y2: zero })
      : null,
    ...ticks.map(label),
    svg(
      "text",
      { x: left + full / 2, y: axes.bottom + 17, "text-anchor": "middle" },
      `layer ${layer}`,
    ),
  ].filter((each) => each !== null);
}
