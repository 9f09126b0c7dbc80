/** The numbers about one network and width: planes of bytes, looked up by place. */

const SIZES = { u1: 1, u2: 2, f4: 4 };

export class Block {
  #bytes;
  #planes = new Map();
  #unpacked = new Map();

  /** Bytes in the layout that the manifest tells. */
  constructor(manifest, bytes) {
    this.manifest = manifest;
    this.#bytes = bytes;
    let offset = 0;
    for (const { name, kind, shape } of manifest.planes) {
      const count = shape.reduce((product, length) => product * length, 1);
      this.#planes.set(name, { kind, count, offset });
      offset += count * SIZES[kind];
    }
  }

  /** The block that a text in base64 holds. */
  static async unpack(manifest, text) {
    const letters = atob(text);
    const packed = new Uint8Array(letters.length);
    for (let at = 0; at < letters.length; at++) packed[at] = letters.charCodeAt(at);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Block(manifest, new Uint8Array(await new Response(stream).arrayBuffer()));
  }

  has(name) {
    return this.#planes.has(name);
  }

  /** All numbers of a plane. */
  plane(name) {
    if (!this.#unpacked.has(name)) this.#unpacked.set(name, this.#unpack(name));
    return this.#unpacked.get(name);
  }

  /** By layer: of a plane of views, statistics (or quantiles), configurations and layers. */
  curve(name, view, which, cell) {
    const [, across, cells, layers] = this.manifest.planes.find((each) => each.name === name).shape;
    const start = ((view * across + which) * cells + cell) * layers;
    return this.plane(name).subarray(start, start + layers);
  }

  /** A line by layer for each seed. */
  seeds(view, statistic, cell) {
    const { depth, seeds, statistics } = this.manifest;
    const values = this.plane("seeds");
    const cells = this.#cells();
    const start = ((view * statistics.length + statistic) * cells + cell) * depth * seeds.length;
    const mean = this.curve("mean", view, statistic, cell);
    return seeds.map((_, seed) =>
      // distances from the mean, where there is one
      mean.map((height, at) => {
        const value = values[start + at * seeds.length + seed];
        return Number.isFinite(height) ? height + value : value;
      }),
    );
  }

  /** A part of a plane of configurations, layers and more: what belongs to a layer. */
  part(name, cell, layer) {
    const { depth, planes } = this.manifest;
    const length = planes.find((each) => each.name === name).shape[2] ?? 1;
    const start = (cell * depth + layer - 1) * length;
    return this.plane(name).subarray(start, start + length);
  }

  #cells() {
    return this.manifest.inits.length * this.manifest.activations.length;
  }

  #unpack(name) {
    const { kind, count, offset } = this.#planes.get(name);
    if (kind === "u1") return this.#bytes.subarray(offset, offset + count);
    const bits = new Uint32Array(count);
    // numbers of two bytes are the upper half of those of four
    const first = kind === "u2" ? 16 : 0;
    for (let byte = 0; byte < SIZES[kind]; byte++) {
      const start = offset + byte * count;
      for (let place = 0; place < count; place++) {
        bits[place] |= this.#bytes[start + place] << (first + 8 * byte);
      }
    }
    return new Float32Array(bits.buffer);
  }
}
