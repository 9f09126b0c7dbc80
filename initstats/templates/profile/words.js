import { counted, significant } from "../explore/numbers.js";

/** Sentences about what is shown. */

/** How many operations are shown, and of which step. */
export function tally({ shown, step }, { count, manifest }) {
  const { steps } = manifest;
  const time = steps.length > 1 ? ` at step ${steps[step]}` : "";
  if (!shown.length) return "No operation is named so: change the filter, or reset it.";
  if (count === 1) return `One operation${time}.`;
  const all = shown.length === count ? `All ${counted(count, "operation")}` : null;
  return `${all ?? `${shown.length} of ${counted(count, "operation")}`}${time}.`;
}

/** The operation that is told of. */
export function about(view, model) {
  const at = view.current;
  if (at === null) return "";
  const { label } = model.manifest.statistics[view.statistic];
  const place = `${view.shown.indexOf(at) + 1} of ${view.shown.length}`;
  const number = (way) => significant(model.values(way, view.statistic, view.step)[at]);
  const numbers = view.ways.map(
    (way) => `${way === "forward" ? "" : "gradient’s "}${label} ${number(way)}`,
  );
  const entries = view.ways.map((way) => model.number(way, "nonfinite", view.step, at));
  const lost = entries.reduce((sum, each) => sum + (each > 0 ? each : 0), 0);
  const broken = lost ? `; ${lost.toLocaleString("en")} entries not finite` : "";
  const found = model.faults[at].map((fault) => fault + 1);
  const named = found.length ? `; named in finding ${found.join(", ")}` : "";
  return `${place}: ${model.nameOf(at)}, ${model.about(at)}: ${numbers.join("; ")}${broken}${named}.`;
}

/** What a printed page cannot show by its switches, and the operation that is told of. */
export function caption(view, model) {
  const { module, kind } = view;
  const told = [module && `named “${module}”`, kind && `of the kind “${kind}”`].filter(Boolean);
  const filtered = told.length ? `Operations ${told.join(" and ")}. ` : "";
  return `${filtered}In the table below, ${about(view, model)}`;
}
