import { Blocks } from "./blocks.js";
import { Controls } from "./controls.js";
import { drawCurves } from "./curves.js";
import { drawDistribution } from "./distribution.js";
import { csv, picture, save } from "./downloads.js";
import { badge, colourOf, html } from "./elements.js";
import { Grid, tinted } from "./map.js";
import { counted, printed, significant, valueOf } from "./numbers.js";
import { Readout } from "./readout.js";
import { MOST, State } from "./state.js";
import { division, Jury } from "./verdicts.js";

/** The explorable figure: what is asked for, looked up and drawn. */

class Explorer {
  #manifest;
  #blocks;
  #block;
  #state;
  #controls;
  #grid;
  #readout;
  #axes;
  #saving;
  #waiting = false;

  constructor(root) {
    this.root = root;
    this.#manifest = JSON.parse(document.getElementById("explore-manifest").textContent);
    this.#blocks = new Blocks(this.#manifest);
    this.#state = new State(this.#manifest);
    this.#state.read(location.hash);
  }

  /** Take the page over; until then it reads as it stands. */
  async begin() {
    const { activations, inits } = this.#manifest;
    this.#block = await this.#blocks.of(this.#state.network);
    this.#controls = new Controls(this.#part("controls"), this.#state, this.#manifest, () =>
      this.#change(),
    );
    const row = (init) => activations.map((_, at) => init * activations.length + at);
    const column = (activation) => inits.map((_, at) => at * activations.length + activation);
    this.#grid = new Grid(this.#part("map"), {
      choose: (init, activation) => {
        if (activation === null) this.#state.pick(row(init));
        else if (init === null) this.#state.pick(column(activation));
        else this.#state.toggle(row(init)[activation]);
        this.draw();
      },
      preview: (init, activation) => {
        const cell = init === null ? null : row(init)[activation];
        if (cell !== this.#state.preview) this.#preview(cell);
        else this.#announce();
      },
      heads: (init, activation) => this.#explain(init, activation),
      clear: () => this.#clear(),
    });
    this.#readout = new Readout(this.#part("readout"), (cell) => {
      this.#state.toggle(cell);
      this.draw();
      if (!this.#readout.focus()) this.#grid.focus();
    });
    this.#listen();
    for (const part of this.root.querySelectorAll("[data-live]")) part.hidden = false;
    this.draw();
    this.root.dataset.ready = Math.round(performance.now());
  }

  #part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  #listen() {
    this.#part("clear").addEventListener("click", () => this.#clear());
    this.#part("csv").addEventListener("click", () =>
      save("curves.csv", "text/csv", csv(this.#table())),
    );
    this.#part("svg").addEventListener("click", () =>
      save("curves.svg", "image/svg+xml", this.#picture()),
    );
    const curves = this.#part("curves");
    const drag = (event) => {
      const box = curves.getBoundingClientRect();
      this.#go(this.#axes.layerAt(event.clientX - box.left));
    };
    curves.addEventListener("pointerdown", (event) => {
      curves.setPointerCapture(event.pointerId);
      drag(event);
    });
    curves.addEventListener("pointermove", (event) => {
      if (event.buttons) drag(event);
    });
    curves.addEventListener("keydown", (event) => {
      const { depth } = this.#manifest;
      const { layer } = this.#state;
      const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 };
      const goals = { Home: 1, End: depth };
      const goal = goals[event.key] ?? layer + (steps[event.key] ?? Number.NaN);
      if (Number.isNaN(goal)) return;
      event.preventDefault();
      this.#go(Math.min(depth, Math.max(1, goal)));
    });
    addEventListener("hashchange", () => {
      this.#state.read(location.hash);
      this.#change();
    });
    // on paper a drawing is scaled, not drawn anew
    const paper = matchMedia("print");
    new ResizeObserver(() => paper.matches || this.#drawPictures()).observe(curves);
  }

  #go(layer) {
    if (layer === this.#state.layer) return;
    this.#state.layer = layer;
    this.#soon(() => this.draw());
  }

  #preview(cell) {
    this.#state.preview = cell;
    this.#soon(() => {
      this.#drawPictures();
      this.#announce();
    });
  }

  /** Draw once before the next picture of the screen, however often it is asked for. */
  #soon(draw) {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      draw();
    });
  }

  #clear() {
    this.#state.pick([]);
    this.draw();
  }

  /** Draw after a change that may ask for other data. */
  async #change() {
    const { network } = this.#state;
    try {
      const block = await this.#blocks.of(network);
      if (network !== this.#state.network) return;
      this.#block = block;
      this.draw();
    } catch (error) {
      this.#part("status").textContent = `${error.message}: copy it there, or open the original.`;
    }
  }

  /** Show the state anew. */
  draw() {
    this.#drawMap();
    this.#controls.write();
    this.#drawPictures();
    this.#drawReadout();
    this.#announce();
    clearTimeout(this.#saving);
    this.#saving = setTimeout(() => this.#save(), 250);
  }

  #save() {
    const address = this.#state.address();
    try {
      history.replaceState(null, "", address ? `#${address}` : location.pathname + location.search);
    } catch {
      // a page within another has no address of its own
    }
  }

  get #statistic() {
    return this.#manifest.statistics[this.#state.statistic];
  }

  #jury() {
    return new Jury(this.#manifest, this.#block, this.#state.limits);
  }

  #mean(cell) {
    const { view, statistic } = this.#state;
    return this.#block.curve("mean", view, statistic, cell);
  }

  #drawMap() {
    const { activations, inits, healthy } = this.#manifest;
    const { layer, show } = this.#state;
    const jury = this.#jury();
    const votes = inits.map((_, row) =>
      activations.map((__, column) => jury.vote(row * activations.length + column, layer)),
    );
    const count = (row) => votes[row].filter(({ word }) => word === healthy).length;
    this.#grid.paint((row, column) => {
      const cell = row * activations.length + column;
      const vote = votes[row][column];
      const common = { word: vote.word, slot: this.#state.slotOf(cell) };
      if (show === "value") {
        return { ...common, note: "", ...tinted(this.#mean(cell)[layer - 1], this.#statistic) };
      }
      const share = vote.votes < vote.seeds ? `${vote.votes} of ${vote.seeds}` : "";
      const note = vote.tied.length ? `tie, ${share}` : share;
      return { ...common, text: vote.word || "—", note, tint: null };
    }, count);
    const total = inits.reduce((sum, _, row) => sum + count(row), 0);
    const measured = votes.flat().filter(({ word }) => word).length;
    this.#part("count").textContent =
      `After ${counted(layer, "layer")}, ${total} of ${counted(measured, "pair")} ${total === 1 ? "is" : "are"} healthy by these limits.`;
    this.#part("printed").textContent = this.#caption();
  }

  /** What a printed page cannot show by its switches. */
  #caption() {
    const { network, limits, show, layer } = this.#state;
    const { networks, depth } = this.#manifest;
    const { network: name, width } = networks[network];
    const what = show === "value" ? `${this.#statistic.label} of the ${this.#label()}` : "verdict";
    return `Map: ${what} at layer ${layer} of ${depth}; ${name}, width ${width}. Healthy: an rms within a factor of ${limits.factor} of the input’s, a correlation below ${limits.correlation}, a gradient within a factor of ${limits.gradient_factor}.`;
  }

  #label() {
    return this.#manifest.views[this.#state.view].label;
  }

  #series(cell, slot) {
    const { view, statistic, seeds, theory } = this.#state;
    const mean = this.#mean(cell);
    const half = this.#block.curve("half", view, statistic, cell);
    const drawn = { cell, slot, mean };
    drawn.low = mean.map((height, at) => height - half[at]);
    drawn.high = mean.map((height, at) => height + half[at]);
    if (slot !== null && seeds) drawn.seeds = this.#block.seeds(view, statistic, cell);
    if (theory && this.#block.has("theory")) {
      drawn.theory = this.#block.curve("theory", view, statistic, cell);
    }
    return drawn;
  }

  #drawPictures() {
    const { preview, layer, whole } = this.#state;
    const { depth } = this.#manifest;
    const pins = this.#state.numbered();
    const series = pins.map(({ cell, slot }) => this.#series(cell, slot));
    const fresh = preview !== null && this.#state.slotOf(preview) === null;
    if (fresh) series.push(this.#series(preview, null));
    const statistic = this.#statistic;
    const curves = this.#part("curves");
    const { label } = statistic;
    this.#part("curves-title").textContent = this.#title();
    this.#axes = drawCurves(curves, series, { statistic, label, depth, layer, whole });
    curves.setAttribute("aria-valuenow", layer);
    curves.setAttribute("aria-valuetext", `layer ${layer}`);
    this.#drawDistributions(fresh ? [{ cell: preview, slot: null }, ...pins.slice(1)] : pins);
  }

  #title() {
    const { label } = this.#statistic;
    return `${label[0].toUpperCase()}${label.slice(1)} of the ${this.#label()} by layer`;
  }

  #drawDistributions(pins) {
    if (!this.#block.has("quantiles")) return;
    const box = this.#part("distributions");
    const shown = pins.slice(0, MOST);
    while (box.children.length > shown.length) box.lastChild.remove();
    while (box.children.length < shown.length) {
      box.append(html("figure", {}, html("figcaption"), html("div", { role: "img" })));
    }
    const { depth } = this.#manifest;
    const { layer } = this.#state;
    const pictures = [...box.children].map((figure) => [...figure.children]);
    for (const [at, { cell, slot }] of shown.entries()) {
      const [title, picture] = pictures[at];
      const name = this.#state.nameOf(cell);
      title.replaceChildren(...(slot === null ? [] : [badge(slot), " "]), name);
      picture.setAttribute("aria-label", this.#spread(cell, name));
      drawDistribution(picture, this.#quantiles(cell), this.#histogram(cell), { depth, layer });
    }
    this.#part("distributions-note").hidden = !shown.length;
  }

  #quantiles(cell) {
    const { view } = this.#state;
    const names = this.#manifest.quantiles;
    const found = names.map((name, at) => [
      name,
      [...this.#block.curve("quantiles", view, at, cell)],
    ]);
    return Object.fromEntries(found);
  }

  #histogram(cell) {
    const { view, layer } = this.#state;
    const { tensor, direction } = this.#manifest.views[view];
    const counted = tensor === "activation" && direction === "forward";
    if (!counted || !this.#block.has("heights")) return null;
    const zeros = this.#manifest.statistics.findIndex(({ name }) => name === "zero_fraction");
    return {
      heights: this.#block.part("heights", cell, layer),
      span: this.#block.part("span", cell, layer),
      zeros: zeros < 0 ? 0 : this.#block.curve("mean", view, zeros, cell)[layer - 1],
    };
  }

  /** A distribution in words. */
  #spread(cell, name) {
    const { layer } = this.#state;
    const { q05, q50, q95 } = this.#quantiles(cell);
    const [low, middle, high] = [q05, q50, q95].map((values) => significant(values[layer - 1]));
    return `Distribution of the ${this.#label()} of ${name}. At layer ${layer}: median ${middle}, 90% between ${low} and ${high}.`;
  }

  #drawReadout() {
    const { layer } = this.#state;
    const { statistic, view } = this.#state;
    const { aspects, sources } = this.#manifest;
    const jury = this.#jury();
    const block = this.#block;
    const pairs = this.#state.numbered().map(({ cell, slot }) => {
      const at = (name) => block.part(name, cell, jury.reached(cell, layer) || 1)[0];
      const source = sources[block.plane("source")[cell]];
      const known = block.has("theory");
      return {
        cell,
        slot,
        name: this.#state.nameOf(cell),
        vote: jury.vote(cell, layer),
        aspects: aspects.map((aspect) => jury.aspect(cell, layer, aspect).word),
        story: jury.story(cell),
        height: [
          this.#mean(cell)[layer - 1],
          block.curve("half", view, statistic, cell)[layer - 1],
        ],
        theory: known ? block.curve("theory", view, statistic, cell)[layer - 1] : Number.NaN,
        growth: [at("growth"), at("growth_half")],
        gradient: [at("gradient_growth"), at("gradient_growth_half")],
        source: source === "theory" ? ", by theory" : "",
      };
    });
    this.#readout.write(pairs, {
      label: this.#statistic.label,
      logarithmic: this.#statistic.logarithmic,
      layer,
      theory: block.has("theory"),
      gradients: block.plane("source").some((source) => source > 0),
    });
  }

  /** Say what is looked at, or how much is drawn. */
  #announce() {
    const { preview, pins, layer } = this.#state;
    const status = this.#part("status");
    if (preview === null) {
      status.textContent = `${counted(pins.length, "pair")} drawn (a whole row or column, or ${MOST} at most).`;
      return;
    }
    const jury = this.#jury();
    const vote = jury.vote(preview, layer);
    const { label, logarithmic } = this.#statistic;
    const value = printed(this.#mean(preview)[layer - 1], logarithmic);
    const seeds = division(vote) || `all of ${counted(vote.seeds, "seed")}`;
    const verdict = vote.word ? `${vote.word} (${seeds}); ${jury.story(preview)}` : "not measured";
    const { init, activation } = this.#state.pairOf(preview);
    const words = [
      `${init}, ${activation}: ${verdict}.`,
      `${label[0].toUpperCase()}${label.slice(1)} at layer ${layer}: ${value}.`,
      this.#meaning("init", init),
      this.#meaning("activation", activation),
    ];
    status.textContent = words.filter(Boolean).join(" ");
  }

  #meaning(kind, name) {
    const { meanings, inits, activations } = this.#manifest;
    const sentence = meanings[kind][(kind === "init" ? inits : activations).indexOf(name)];
    return sentence ? `${name}: ${sentence}` : "";
  }

  /** Say what a head of the map means. */
  #explain(row, column) {
    const { inits, activations } = this.#manifest;
    if (this.#state.preview !== null) this.#preview(null);
    const [kind, name] = row < 0 ? ["activation", activations[column]] : ["init", inits[row]];
    if (name === undefined || (row >= 0 && column >= 0)) return;
    const meaning = this.#meaning(kind, name) || name;
    this.#part("status").textContent = `${meaning} Choose it to compare all its pairs.`;
  }

  /** The rows of the curves' file. */
  #table() {
    const { view, network, seeds, theory } = this.#state;
    const { networks, views, seeds: numbers, depth } = this.#manifest;
    const { name, logarithmic } = this.#statistic;
    const known = theory && this.#block.has("theory");
    const head = ["network", "init", "activation", "width", "layer", "tensor", "direction"];
    const rows = [
      [
        ...head,
        "verdict",
        name,
        "low",
        "high",
        ...(known ? ["theory"] : []),
        ...(seeds ? numbers.map((seed) => `seed_${seed}`) : []),
      ],
    ];
    const jury = this.#jury();
    const { tensor, direction } = views[view];
    const value = (height) => (Number.isNaN(height) ? "" : valueOf(height, logarithmic));
    for (const { cell, slot } of this.#state.numbered()) {
      const drawn = this.#series(cell, slot);
      const { init, activation } = this.#state.pairOf(cell);
      const place = [networks[network].network, init, activation, networks[network].width];
      for (let at = 0; at < depth; at++) {
        const heights = [drawn.mean, drawn.low, drawn.high];
        if (known) heights.push(drawn.theory);
        heights.push(...(drawn.seeds ?? []));
        const { word } = jury.vote(cell, at + 1);
        const values = heights.map((line) => value(line[at]));
        rows.push([...place, at + 1, tensor, direction, word, ...values]);
      }
    }
    return rows;
  }

  #picture() {
    const legend = this.#state.numbered().map(({ cell, slot }) => ({
      slot,
      name: this.#state.nameOf(cell),
      colour: colourOf(slot),
    }));
    return picture(this.#part("curves").querySelector("svg"), this.#title(), legend);
  }
}

new Explorer(document.querySelector(".explore")).begin();
