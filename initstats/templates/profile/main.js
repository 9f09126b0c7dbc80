import { Block } from "../explore/block.js";
import { csv, save } from "../explore/downloads.js";
import { html } from "../explore/elements.js";
import { Controls } from "./controls.js";
import { Model } from "./model.js";
import { Picture } from "./picture.js";
import { Readout } from "./readout.js";
import { View } from "./view.js";
import { about, caption, tally } from "./words.js";

/** The explorable profile: parts of the page that show a view, and change it. */

const CALM = 250;
const MOVES = {
  ArrowLeft: -1,
  ArrowDown: -1,
  ArrowRight: 1,
  ArrowUp: 1,
  PageDown: 10,
  PageUp: -10,
};

class Explorer {
  #root;
  #model;
  #view;
  #controls;
  #picture;
  #readout;
  #waiting = false;
  #saving;

  constructor(root, model) {
    this.#root = root;
    this.#model = model;
    this.#view = new View(model);
    this.#view.read(location.hash);
    this.#controls = new Controls(this.#part("controls"), this.#view, model, () => this.#change());
    this.#picture = new Picture(this.#part("picture"), model);
    this.#readout = new Readout(this.#part("readout"), this.#part("found"), model);
    for (const part of root.querySelectorAll("[data-live]")) part.hidden = false;
    this.#offer();
    this.#listen();
    this.#draw();
    root.dataset.ready = Math.round(performance.now());
  }

  #part(name) {
    return this.#root.querySelector(`[data-part="${name}"]`);
  }

  /** Let each finding that has a place in the profile lead there. */
  #offer() {
    for (const [fault, places] of this.#model.manifest.faults.entries()) {
      const box = document.getElementById(`fault-${fault}`);
      if (!places.length || !box) continue;
      const button = html(
        "button",
        { type: "button", "data-go": places[0] },
        "show in the profile",
      );
      button.addEventListener("click", () => {
        this.#view.choose(places[0]);
        this.#change();
        const picture = this.#part("picture");
        picture.scrollIntoView({ block: "center" });
        picture.focus({ preventScroll: true });
      });
      box.append(" ", button);
    }
  }

  #listen() {
    const box = this.#part("picture");
    const operation = ({ clientX }) =>
      this.#picture.operationAt(clientX - box.getBoundingClientRect().left);
    box.addEventListener("pointermove", (event) => this.#look(operation(event)));
    box.addEventListener("pointerleave", () => this.#look(null));
    box.addEventListener("pointerdown", (event) => {
      const at = operation(event);
      if (at !== null) this.#view.at = at;
      this.#point();
      this.#save();
    });
    box.addEventListener("keydown", (event) => this.#press(event));
    this.#part("found").addEventListener("click", ({ target }) => {
      if (target.dataset.fault === undefined) return;
      const finding = document.getElementById(`fault-${target.dataset.fault}`);
      finding.scrollIntoView({ block: "center" });
      finding.focus({ preventScroll: true });
    });
    this.#part("csv").addEventListener("click", () => {
      save("profile.csv", "text/csv", csv(this.#rows()));
    });
    addEventListener("hashchange", () => {
      this.#view.read(location.hash);
      this.#draw();
    });
    // on paper a drawing is scaled, not drawn anew
    const paper = matchMedia("print");
    new ResizeObserver(() => paper.matches || this.#drawPicture()).observe(box);
  }

  #press(event) {
    const { key } = event;
    const { shown } = this.#view;
    const by = { Home: -shown.length, End: shown.length, ...MOVES }[key];
    if (key === "Escape") this.#view.preview = null;
    else if (by === undefined) return;
    else this.#view.move(by);
    event.preventDefault();
    this.#point();
    this.#save();
  }

  #look(at) {
    if (at === this.#view.preview) return;
    this.#view.preview = at;
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#point();
    });
  }

  /** Show the view after a switch has changed it. */
  #change() {
    this.#draw();
    this.#save();
  }

  #draw() {
    this.#controls.write();
    this.#part("count").textContent = tally(this.#view, this.#model);
    this.#drawPicture();
  }

  #drawPicture() {
    this.#picture.draw(this.#view);
    this.#point();
  }

  /** Show the operation that is told of. */
  #point() {
    const { current, step, shown } = this.#view;
    const words = about(this.#view, this.#model);
    const box = this.#part("picture");
    this.#picture.point(current);
    this.#readout.write(current, step);
    this.#part("status").textContent = words;
    this.#part("printed").textContent = caption(this.#view, this.#model);
    box.setAttribute("aria-valuemax", Math.max(1, shown.length));
    box.setAttribute("aria-valuenow", Math.max(1, shown.indexOf(current) + 1));
    box.setAttribute("aria-valuetext", words || "no operation");
  }

  /** Write the view into the address, when it has come to rest. */
  #save() {
    clearTimeout(this.#saving);
    this.#saving = setTimeout(() => {
      const address = this.#view.address();
      try {
        history.replaceState(
          null,
          "",
          address ? `#${address}` : location.pathname + location.search,
        );
      } catch {
        // a page within another has no address of its own
      }
    }, CALM);
  }

  /** All numbers of the operations that are shown, with a row of heads. */
  #rows() {
    const { names, kinds, calls, layers, shapes, steps, statistics } = this.#model.manifest;
    const { step, shown, ways } = this.#view;
    const heads = ["step", "layer", "name", "op", "call", "shape", "direction"];
    const rows = ways.flatMap((way) => {
      const columns = statistics.map((_, at) => this.#model.values(way, at, step));
      return shown.map((at) => [
        ...[steps[step], layers[at], names[at], kinds[at], calls[at], shapes[at], way],
        ...columns.map((values) => (Number.isNaN(values[at]) ? "" : values[at])),
      ]);
    });
    return [[...heads, ...statistics.map(({ name }) => name)], ...rows];
  }
}

const manifest = JSON.parse(document.getElementById("profile-manifest").textContent);
const packed = document.getElementById("profile-block").textContent;
const block = await Block.unpack(manifest, packed);
new Explorer(document.querySelector(".profile"), new Model(manifest, block));
