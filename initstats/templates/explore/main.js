import { Blocks } from "./blocks.js";
import { Controls } from "./controls.js";
import { drawCurves } from "./curves.js";
import { Dial } from "./dial.js";
import { drawDistribution } from "./distribution.js";
import { csv, picture, save } from "./downloads.js";
import { badge, colourOf, html } from "./elements.js";
import { Grid, tinted } from "./map.js";
import { Readout } from "./readout.js";
import { Shown } from "./shown.js";
import { MOST, State } from "./state.js";
import { about, caption, distribution, drawn, entry, instead, tally, title } from "./words.js";

/** The explorable figure: parts of the page that show a state, and change it. */

const CALM = 250;

class Explorer {
  #root;
  #manifest;
  #blocks;
  #block;
  #state;
  #controls;
  #grid;
  #dial;
  #readout;
  #axes;
  #saving;
  #waiting = false;
  #whole = false;
  #width = 0;
  #widths = new Map();

  constructor(root) {
    this.#root = root;
    this.#manifest = JSON.parse(document.getElementById("explore-manifest").textContent);
    this.#blocks = new Blocks(this.#manifest);
    this.#state = new State(this.#manifest);
    this.#state.read(location.hash);
  }

  /** Take the page over; until then it reads as it stands. */
  async begin() {
    try {
      this.#block = await this.#blocks.of(this.#state.network);
    } catch (error) {
      this.#complain(error);
      return;
    }
    const { depth } = this.#manifest;
    const changed = () => this.#change();
    this.#controls = new Controls(this.#part("controls"), this.#state, this.#manifest, changed);
    this.#grid = new Grid(this.#part("map"), this.#answers());
    this.#dial = new Dial(
      this.#part("curves"),
      depth,
      (x) => this.#axes.layerAt(x),
      (layer) => this.#go(layer),
    );
    this.#readout = new Readout(this.#part("readout"), (cell) => {
      this.#state.toggle(cell);
      this.#draw();
      if (!this.#readout.focus()) this.#grid.focus();
    });
    this.#listen();
    for (const part of this.#root.querySelectorAll("[data-live]")) part.hidden = false;
    this.#width = this.#part("curves").clientWidth;
    this.#draw();
    this.#root.dataset.ready = Math.round(performance.now());
  }

  #part(name) {
    return this.#root.querySelector(`[data-part="${name}"]`);
  }

  #say(part, text) {
    this.#part(part).textContent = text;
  }

  #complain(error) {
    this.#part("status").hidden = false;
    this.#say("status", `${error.message}: open the page in the folder it was written into.`);
  }

  /** What the map asks for. */
  #answers() {
    const { inits, activations } = this.#manifest;
    const state = this.#state;
    const across = activations.length;
    return {
      choose: (row, column) => {
        if (column === null) state.pick(activations.map((_, at) => row * across + at));
        else if (row === null) state.pick(inits.map((_, at) => at * across + column));
        else state.toggle(row * across + column);
        this.#draw();
      },
      look: (row, column) => {
        this.#look(row === null || column === null ? null : row * across + column);
        if (row === null && column === null) this.#announce();
        else if (row === null) {
          this.#say("status", entry("activation", activations[column], this.#manifest));
        } else if (column === null) {
          this.#say("status", entry("init", inits[row], this.#manifest));
        }
      },
      clear: () => this.#clear(),
    };
  }

  #listen() {
    this.#part("clear").addEventListener("click", () => this.#clear());
    this.#part("csv").addEventListener("click", () => {
      save("curves.csv", "text/csv", csv(this.#shown().rows()));
    });
    this.#part("svg").addEventListener("click", () => {
      const drawing = this.#part("curves").querySelector("svg");
      const legend = this.#state.numbered().map(({ cell, slot }) => ({
        slot,
        name: this.#state.nameOf(cell),
        colour: colourOf(slot),
      }));
      save("curves.svg", "image/svg+xml", picture(drawing, title(this.#shown()), legend));
    });
    addEventListener("hashchange", () => {
      this.#state.read(location.hash);
      this.#change();
    });
    // on paper a drawing is scaled, not drawn anew
    const paper = matchMedia("print");
    new ResizeObserver(([{ contentRect }]) => {
      if (paper.matches || contentRect.width === this.#width) return;
      this.#width = contentRect.width;
      this.#drawPictures();
    }).observe(this.#part("curves"));
  }

  #go(layer) {
    if (layer === this.#state.layer) return;
    this.#state.layer = layer;
    this.#soon(true);
  }

  #look(cell) {
    if (cell === this.#state.preview) return;
    this.#state.preview = cell;
    this.#soon(false);
  }

  #clear() {
    this.#state.pick([]);
    this.#draw();
  }

  /** Draw before the next picture of the screen, once, however often it is asked for. */
  #soon(whole) {
    this.#whole ||= whole;
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (this.#whole) this.#draw();
      else {
        this.#drawPictures();
        if (this.#state.preview !== null) this.#announce();
      }
      this.#whole = false;
    });
  }

  /** Draw after a change that may ask for other data. */
  async #change() {
    const { network } = this.#state;
    this.#root.setAttribute("aria-busy", "true");
    try {
      const block = await this.#blocks.of(network);
      if (network !== this.#state.network) return;
      this.#block = block;
      this.#draw();
    } catch (error) {
      this.#complain(error);
    }
    this.#root.removeAttribute("aria-busy");
  }

  #shown() {
    return new Shown(this.#manifest, this.#block, this.#state);
  }

  /** Show the state anew. */
  #draw() {
    const shown = this.#shown();
    this.#drawMap(shown);
    this.#controls.write();
    this.#say("printed", caption(shown));
    this.#drawPictures();
    this.#drawReadout(shown);
    this.#announce();
    clearTimeout(this.#saving);
    this.#saving = setTimeout(() => this.#save(), CALM);
  }

  #save() {
    const address = this.#state.address();
    try {
      history.replaceState(null, "", address ? `#${address}` : location.pathname + location.search);
    } catch {
      // a page within another has no address of its own
    }
  }

  #drawMap(shown) {
    const { activations, inits, healthy } = this.#manifest;
    const { show, layer } = this.#state;
    const votes = inits.map((_, row) =>
      activations.map((__, column) => shown.vote(row * activations.length + column)),
    );
    const counts = votes.map((row) =>
      row.some(({ word }) => word) ? row.filter(({ word }) => word === healthy).length : null,
    );
    this.#grid.paint((row, column) => {
      const cell = row * activations.length + column;
      const slot = this.#state.slotOf(cell);
      if (show === "value") return { slot, ...tinted(shown.height(cell), shown.statistic) };
      const { word, votes: most, seeds, tied } = votes[row][column];
      const share = most < seeds ? `${most} of ${seeds}` : "";
      const note = tied.length ? "tie" : share;
      return { slot, text: word || "—", note, word };
    }, counts);
    const total = counts.reduce((sum, count) => sum + count, 0);
    const measured = votes.flat().filter(({ word }) => word).length;
    this.#say("count", tally(total, measured, shown.jury.judgedAt(layer)));
  }

  #drawPictures() {
    const shown = this.#shown();
    const { preview, layer, whole } = this.#state;
    const { depth } = this.#manifest;
    const pins = this.#state.numbered();
    const fresh = preview !== null && this.#state.slotOf(preview) === null;
    const ghost = fresh ? [{ cell: preview, slot: null }] : [];
    this.#say("curves-title", title(shown));
    this.#axes = drawCurves(
      this.#part("curves"),
      this.#width,
      [...pins, ...ghost].map((pin) => shown.series(pin)),
      { statistic: shown.statistic, depth, layer, there: shown.there, whole },
    );
    this.#dial.write(layer);
    // a preview takes the first place, so that nothing below moves
    this.#drawDistributions(fresh ? [...ghost, ...pins.slice(1)] : pins, shown);
  }

  #drawDistributions(pins, shown) {
    const box = this.#part("distributions");
    const pictured = shown.block.has("quantiles") ? pins.slice(0, MOST) : [];
    while (box.children.length > pictured.length) box.lastChild.remove();
    while (box.children.length < pictured.length) {
      box.append(html("figure", {}, html("figcaption"), html("div", { role: "img" })));
    }
    const { depth } = this.#manifest;
    const { layer } = this.#state;
    const width = this.#widthOf(box);
    const { view, network } = this.#state;
    for (const [at, { cell, slot }] of pictured.entries()) {
      const key = [cell, slot, layer, view, network, width].join(" ");
      if (box.children[at].dataset.key === key) continue;
      box.children[at].dataset.key = key;
      const [head, picture] = box.children[at].children;
      head.replaceChildren(...(slot === null ? [] : [badge(slot), " "]), this.#state.nameOf(cell));
      picture.setAttribute("aria-label", distribution(cell, shown));
      drawDistribution(picture, width, shown.quantiles(cell), shown.histogram(cell), {
        depth,
        layer,
        there: shown.there,
      });
    }
    this.#part("distributions-note").hidden = !pictured.length;
  }

  /** The width of each distribution, which is looked up: to measure while drawing is slow. */
  #widthOf(box) {
    const key = `${box.children.length} in ${this.#width}`;
    if (!this.#widths.has(key)) this.#widths.set(key, box.firstChild?.lastChild.clientWidth);
    return this.#widths.get(key);
  }

  #drawReadout(shown) {
    const pairs = this.#state.numbered().map((pin) => shown.numbers(pin));
    this.#readout.write(pairs, {
      statistic: shown.statistic,
      layer: shown.jury.judgedAt(this.#state.layer),
      theory: shown.theory && this.#state.theory,
      gradients: shown.block.plane("source").some((source) => source > 0),
    });
  }

  /** Say what is looked at, or how much is drawn. */
  #announce() {
    const { preview, pins, missing } = this.#state;
    const shown = this.#shown();
    const first = missing ? `${instead(shown)} ` : "";
    this.#say("status", preview === null ? `${first}${drawn(pins.length)}` : about(preview, shown));
  }
}

new Explorer(document.querySelector(".explore")).begin();
