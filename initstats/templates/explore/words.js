import { counted, printed, significant } from "./numbers.js";
import { MOST } from "./state.js";
import { division } from "./verdicts.js";

/** Sentences about what is shown. */

/** A text that begins a sentence. */
function begun(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}`;
}

/** The title of the curves. */
export function title({ statistic, view }) {
  return `${begun(statistic.label)} of the ${view.label} by layer`;
}

/** How many pairs are healthy. */
export function tally(healthy, measured, layer) {
  const verb = healthy === 1 ? "is" : "are";
  return `After ${counted(layer, "layer")}, ${healthy} of ${counted(measured, "pair")} ${verb} healthy by these limits.`;
}

/** What a printed page cannot show by its switches. */
export function caption({ statistic, view, network, state, manifest, jury }) {
  const { limits, show, layer } = state;
  const what = show === "value" ? `${statistic.label} of the ${view.label}` : "verdicts";
  return [
    `Map: ${what} at layer ${show === "value" ? layer : jury.judgedAt(layer)} of ${manifest.depth}, ${network.network} of width ${network.width}.`,
    `Healthy is an rms within a factor of ${limits.factor} of the input’s, a correlation below ${limits.correlation}, and a gradient within a factor of ${limits.gradient_factor}.`,
  ].join(" ");
}

/** How much is drawn. */
export function drawn(count) {
  return `${counted(count, "pair")} drawn. At most ${MOST} are picked one by one.`;
}

/** Why a view, or a statistic, of that name cannot be chosen. */
export function without({ network }, label) {
  return `${network} has no ${label}`;
}

/** What was to be shown, and the network does not have, and what is shown in its place. */
export function instead({ statistic, view, network, state, manifest }) {
  const { known, missing } = state;
  const of = manifest.views[missing.view].label;
  const { label } = manifest.statistics[missing.statistic];
  let lacking = label;
  if (!known[missing.view].length) lacking = of;
  else if (known.flat().includes(missing.statistic)) lacking = `${label} of the ${of}`;
  return `${without(network, lacking)}: the ${statistic.label} of the ${view.label} is shown.`;
}

/** A pair that is looked at. */
export function about(cell, shown) {
  const { statistic, state, jury, manifest } = shown;
  const vote = shown.vote(cell);
  const { init, activation } = state.pairOf(cell);
  const seeds = division(vote) || `all of ${counted(vote.seeds, "seed")}`;
  const value = printed(shown.height(cell), statistic.logarithmic);
  return [
    vote.word
      ? `${init}, ${activation}: ${vote.word} (${seeds}); ${jury.story(cell)}.`
      : `${init}, ${activation}: not measured.`,
    `${begun(statistic.label)} at layer ${state.layer}: ${value}.`,
    meaning("init", init, manifest),
    meaning("activation", activation, manifest),
  ]
    .filter(Boolean)
    .join(" ");
}

/** An init or an activation, whose head in the map is looked at. */
export function entry(kind, name, manifest) {
  return `${meaning(kind, name, manifest) || `${name}.`} Choose it to compare all its pairs.`;
}

function meaning(kind, name, { meanings }) {
  const sentence = meanings[kind][name];
  return sentence ? `${name}: ${sentence}` : "";
}

/** The distribution of a pair at the chosen depth. */
export function distribution(cell, shown) {
  const { view, state } = shown;
  const { q05, q50, q95 } = shown.quantiles(cell);
  const [low, middle, high] = [q05, q50, q95].map((line) => significant(line[state.layer - 1]));
  const name = state.nameOf(cell);
  return `Distribution of the ${view.label} of ${name}. At layer ${state.layer}: median ${middle}, 90% between ${low} and ${high}.`;
}
