/** Reads safetensors files, as far as the golden data requires. */

import { readFileSync } from "node:fs";

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

export class Tensors {
  readonly #path: string;
  readonly #entries: Map<string, Entry>;
  readonly #data: DataView;

  constructor(path: string) {
    const bytes = readFileSync(path);
    const header = Number(bytes.readBigUInt64LE(0));
    const parsed = JSON.parse(bytes.toString("utf8", 8, 8 + header)) as Record<string, Entry>;
    this.#path = path;
    this.#entries = new Map(Object.entries(parsed).filter(([name]) => name !== "__metadata__"));
    this.#data = new DataView(bytes.buffer, bytes.byteOffset + 8 + header, bytes.length - 8 - header);
  }

  /** All names, sorted. */
  get names(): string[] {
    return [...this.#entries.keys()].sort();
  }

  /** Bytes of the largest tensor. */
  get largest(): number {
    return Math.max(...[...this.#entries.values()].map(({ data_offsets: [start, end] }) => end - start));
  }

  shape(name: string): number[] {
    return this.#entry(name).shape;
  }

  f32(name: string): number[] {
    return this.#values(name, "F32", 4, (at) => this.#data.getFloat32(at, true));
  }

  f64(name: string): number[] {
    return this.#values(name, "F64", 8, (at) => this.#data.getFloat64(at, true));
  }

  i32(name: string): number[] {
    return this.#values(name, "I32", 4, (at) => this.#data.getInt32(at, true));
  }

  u8(name: string): number[] {
    return this.#values(name, "U8", 1, (at) => this.#data.getUint8(at));
  }

  /** Rows of an int32 tensor with two dimensions. */
  rows(name: string): number[][] {
    const [count, width] = this.shape(name) as [number, number];
    const flat = this.i32(name);
    return Array.from({ length: count }, (_, row) => flat.slice(row * width, (row + 1) * width));
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new Error(`${this.#path} has no tensor ${name}`);
    return entry;
  }

  #values(name: string, dtype: string, size: number, at: (offset: number) => number): number[] {
    const entry = this.#entry(name);
    if (entry.dtype !== dtype) throw new Error(`${name} is ${entry.dtype}, not ${dtype}`);
    const [start, end] = entry.data_offsets;
    return Array.from({ length: (end - start) / size }, (_, index) => at(start + index * size));
  }
}
