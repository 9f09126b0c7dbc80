/** The layer as a slider on the curves: dragged along them, or moved by keys. */

const STEPS = {
  ArrowLeft: -1,
  ArrowDown: -1,
  ArrowRight: 1,
  ArrowUp: 1,
  PageDown: -5,
  PageUp: 5,
};

export class Dial {
  #box;
  #depth;
  #layer;

  /**
   * @param layerAt the layer at a place within the box.
   * @param moved called with the layer that is asked for.
   */
  constructor(box, depth, layerAt, moved) {
    this.#box = box;
    this.#depth = depth;
    const drag = ({ clientX }) => moved(layerAt(clientX - box.getBoundingClientRect().left));
    box.addEventListener("pointerdown", (event) => {
      box.setPointerCapture(event.pointerId);
      drag(event);
    });
    box.addEventListener("pointermove", (event) => {
      if (event.buttons) drag(event);
    });
    box.addEventListener("keydown", (event) => {
      const layer = this.#goal(event.key);
      if (layer === null) return;
      event.preventDefault();
      moved(layer);
    });
  }

  /** Show a layer. */
  write(layer) {
    this.#layer = layer;
    this.#box.setAttribute("aria-valuenow", layer);
    this.#box.setAttribute("aria-valuetext", `layer ${layer}`);
  }

  #goal(key) {
    if (key === "Home") return 1;
    if (key === "End") return this.#depth;
    const step = STEPS[key];
    return step ? Math.min(this.#depth, Math.max(1, this.#layer + step)) : null;
  }
}
