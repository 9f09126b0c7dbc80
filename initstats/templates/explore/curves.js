import { Axes, sizeOf, tickLabel, ticksOf } from "./axes.js";
import { colourOf, svg } from "./elements.js";

/** Curves by layer: the mean over seeds with its interval, and what theory expects. */

const DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "4 2", "12 4", "1 3", "6 2 1 2"];
/** The usual range: of a logarithmic axis in powers of ten, of others in units. */
const USUAL = { logarithmic: 3, linear: 5 };
const GAP = 15;

/**
 * Draw pairs into a box that is so many pixels wide.
 *
 * @param series of each pair its `slot` (null for a preview), `mean`, `low`, `high`, `seeds`,
 *   `theory`, as heights by layer.
 * @returns the axes, which tell the layer at a place.
 */
export function drawCurves(box, pixels, series, { statistic, depth, layer, there, whole }) {
  const { width, height } = sizeOf(pixels, 0.5);
  const [low, high] = rangeOf(series, statistic, whole);
  const margins = { left: 58, right: width - 30, top: 10, bottom: height - 40 };
  const axes = new Axes({ ...margins, depth, low, high, there });
  const ticks = ticksOf(low, high, statistic.logarithmic);
  const clip = svg(
    "clipPath",
    { id: "explore-clip" },
    svg("rect", {
      x: axes.left - 7,
      y: axes.top - 2,
      width: axes.right - axes.left + 14,
      height: axes.bottom - axes.top + 4,
    }),
  );
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    svg("defs", {}, clip),
    ...(statistic.logarithmic ? keptBand(axes) : []),
    ...axes.rules(ticks, (tick) => tickLabel(tick, statistic.logarithmic)),
    ...axes.layers(),
    upright(axes, statistic.label),
    axes.cursor(layer),
    svg("g", { "clip-path": "url(#explore-clip)" }, ...series.map((each) => lines(axes, each))),
    ...ends(axes, series),
  );
  box.replaceChildren(picture);
  return axes;
}

/** The heights between which all that is drawn lies, as far as the usual range allows. */
function rangeOf(series, { shown, logarithmic }, whole) {
  let [low, high] = shown;
  for (const height of series.flatMap(({ mean }) => [...mean])) {
    if (Number.isFinite(height)) {
      low = Math.min(low, height);
      high = Math.max(high, height);
    }
  }
  const most = whole ? Infinity : USUAL[logarithmic ? "logarithmic" : "linear"];
  [low, high] = [Math.max(low, -most), Math.min(high, most)];
  if (logarithmic) return [Math.floor(low + 1e-6), Math.ceil(high - 1e-6)];
  const room = shown[0] === 0 && shown[1] === 1 ? 0.02 : 0.04;
  return [low - room * (high - low), high + room * (high - low)];
}

/** The heights at which a signal keeps its scale. */
function keptBand(axes) {
  const top = Math.max(axes.top, axes.y(1));
  const bottom = Math.min(axes.bottom, axes.y(-1));
  const across = { x: axes.left, width: axes.right - axes.left };
  return [svg("rect", { class: "kept", ...across, y: top, height: Math.max(0, bottom - top) })];
}

function upright(axes, label) {
  const middle = (axes.top + axes.bottom) / 2;
  const turned = `translate(13 ${middle}) rotate(-90)`;
  return svg("text", { transform: turned, "text-anchor": "middle" }, label);
}

function lines(axes, { slot, mean, low, high, seeds, theory }) {
  const ghost = slot === null;
  const out = mean.findIndex((height) => height < axes.low || height > axes.high);
  const until = out < 0 ? mean.length : out + 1;
  const stroke = ghost ? "currentColor" : colourOf(slot);
  const line = (heights, attributes) =>
    svg("path", { d: axes.line(heights), fill: "none", stroke, ...attributes });
  const dashes = ghost ? "3 3" : DASHES[slot % DASHES.length] || null;
  return svg(
    "g",
    {},
    ghost
      ? null
      : svg("path", {
          d: axes.area(low.subarray(0, until), high.subarray(0, until)),
          fill: stroke,
          opacity: 0.2,
        }),
    ...seeds.map((heights) => line(heights, { "stroke-width": 0.7, opacity: 0.5 })),
    line(mean.subarray(0, until), {
      class: "mean",
      "stroke-width": ghost ? 1.4 : 2,
      "stroke-dasharray": dashes,
    }),
    theory ? line(theory, { class: "theory" }) : null,
  );
}

/** Where each line ends: its number, and a mark where it leaves the panel or overflows. */
function ends(axes, series) {
  const found = series.filter(({ slot }) => slot !== null).map((each) => endOf(axes, each));
  const staying = found.filter(({ mark }) => !mark).sort((one, other) => one.y - other.y);
  apart(staying, axes);
  const inside = found.filter(({ mark }) => mark).sort((one, other) => one.x - other.x);
  for (const [at, end] of inside.entries()) {
    const near = inside.slice(0, at).filter((other) => Math.abs(other.x - end.x) < 2 * GAP + 6);
    const taken = near.filter((other) => Math.abs(other.y - end.y) < GAP);
    const inward = end.y < (axes.top + axes.bottom) / 2 ? GAP : -GAP;
    if (taken.length) end.y = taken.at(-1).y + inward;
  }
  return found.map(({ slot, x, y, mark }) => {
    const colour = colourOf(slot);
    const at = mark ? Math.min(x + 13, axes.right + 18) : axes.right + 16;
    return svg(
      "g",
      { class: "end" },
      mark ? svg("text", { x, y: y + 4, fill: colour, "text-anchor": "middle" }, mark) : null,
      svg("circle", { cx: at, cy: y, r: 7.5, fill: colour }),
      svg("text", { class: "number", x: at, y: y + 4, "text-anchor": "middle" }, `${slot + 1}`),
    );
  });
}

function endOf(axes, { slot, mean }) {
  const out = mean.findIndex((height) => height < axes.low || height > axes.high);
  const known = mean.findLastIndex((height) => !Number.isNaN(height));
  const within = (y) => Math.min(Math.max(y, axes.top + 6), axes.bottom - 6);
  if (out >= 0) {
    const edge = mean[out] > axes.high ? axes.high : axes.low;
    const mark = mean[out] === Infinity ? "×" : edge === axes.high ? "▴" : "▾";
    return { slot, mark, x: crossing(axes, mean, out, edge), y: within(axes.y(edge)) };
  }
  const ends = known < axes.there.lastIndexOf(1);
  const height = known < 0 ? axes.low : mean[known];
  const x = axes.x(Math.max(known, 0) + 1);
  return { slot, mark: ends ? "×" : "", x, y: within(axes.y(height)) };
}

/** Where a line leaves the panel, on its way to a layer outside. */
function crossing(axes, mean, out, edge) {
  const [from, to] = [mean[out - 1], mean[out]];
  const share = (edge - from) / (to - from);
  return axes.x(out + (share >= 0 && share < 1 ? share : 1));
}

/** Move numbers at the right edge apart, in their order. */
function apart(places, axes) {
  const gap = Math.min(GAP, (axes.bottom - axes.top) / Math.max(1, places.length - 1));
  places.forEach((place, at) => {
    if (at) place.y = Math.max(place.y, places[at - 1].y + gap);
  });
  places.toReversed().forEach((place, at) => {
    place.y = Math.min(place.y, axes.bottom - at * gap);
  });
}
