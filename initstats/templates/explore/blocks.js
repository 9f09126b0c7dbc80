import { Block } from "./block.js";

/** The blocks of a study: those in the page, and those that lie beside it, loaded when asked for. */
export class Blocks {
  #manifest;
  #blocks = new Map();

  constructor(manifest) {
    this.#manifest = manifest;
  }

  /** The block of a network and width; it is unpacked once. */
  of(network) {
    if (!this.#blocks.has(network)) this.#blocks.set(network, this.#unpack(network));
    return this.#blocks.get(network);
  }

  async #unpack(network) {
    const file = this.#manifest.files[network];
    const text = file ? await beside(file) : within(network);
    return Block.unpack(this.#manifest, text);
  }
}

function within(network) {
  const script = document.getElementById(`explore-block-${network}`);
  const text = script.textContent;
  script.remove(); // text of some megabytes is not needed twice
  return text;
}

/** What a script beside the page holds; a page that was opened as a file may not fetch. */
function beside(file) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = file;
    script.onload = () => {
      resolve(globalThis.initstatsData[file]);
      delete globalThis.initstatsData[file];
    };
    script.onerror = () => {
      script.remove();
      reject(new Error(`${file} is not beside this page`));
    };
    document.head.append(script);
  });
}
