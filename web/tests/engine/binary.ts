/** Reads as much of a wasm module as it takes to see how its functions begin. */

interface Body {
  /** Offset of the first instruction; `end` follows the last. */
  start: number;
  end: number;
}

class Reader {
  constructor(
    readonly bytes: Uint8Array,
    public at = 0,
  ) {}

  byte(): number {
    const byte = this.bytes[this.at];
    if (byte === undefined) throw new Error(`the module ends at byte ${this.at}`);
    this.at += 1;
    return byte;
  }

  /** Reads a LEB128 number. */
  number(): number {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  }

  skip(count: number): void {
    this.at += count;
  }

  limits(): void {
    const flags = this.byte();
    this.number();
    if (flags & 1) this.number();
  }

  /** Skips a value type; reference types take more bytes. */
  valueType(): void {
    const type = this.byte();
    if (type === 0x63 || type === 0x64) this.number();
  }
}

/**
 * Counts functions that first call one without parameters or results and then pass on their own arguments, by the function they call first.
 * The linker wraps every export in one if nothing calls the module's constructors.
 */
export function wrappers(module: Uint8Array): Map<number, number> {
  const voidTypes = new Set<number>();
  /** The type of every function, imported ones first. */
  const types: number[] = [];
  let imported = 0;
  const bodies: Body[] = [];
  const reader = new Reader(module, 8);
  while (reader.at < module.length) {
    const section = reader.byte();
    const end = reader.number() + reader.at;
    if (section === 1) {
      for (let count = reader.number(), index = 0; index < count; index += 1) {
        if (reader.byte() !== 0x60) throw new Error("a type that is no plain function's");
        const parameters = reader.number();
        for (let each = 0; each < parameters; each += 1) reader.valueType();
        const results = reader.number();
        for (let each = 0; each < results; each += 1) reader.valueType();
        if (parameters + results === 0) voidTypes.add(index);
      }
    } else if (section === 2) {
      for (let count = reader.number(); count > 0; count -= 1) {
        reader.skip(reader.number());
        reader.skip(reader.number());
        const kind = reader.byte();
        if (kind === 0) types.push(reader.number());
        else if (kind === 1) [reader.valueType(), reader.limits()];
        else if (kind === 2) reader.limits();
        else if (kind === 3) [reader.valueType(), reader.byte()];
        else [reader.byte(), reader.number()];
      }
      imported = types.length;
    } else if (section === 3) {
      for (let count = reader.number(); count > 0; count -= 1) types.push(reader.number());
    } else if (section === 10) {
      for (let count = reader.number(); count > 0; count -= 1) {
        const size = reader.number();
        const end = reader.at + size;
        for (let locals = reader.number(); locals > 0; locals -= 1) [reader.number(), reader.valueType()];
        bodies.push({ start: reader.at, end });
        reader.at = end;
      }
    }
    reader.at = end;
  }
  if (bodies.length === 0 || bodies.length !== types.length - imported) throw new Error("the module's functions could not be read");

  const found = new Map<number, number>();
  for (const { start, end } of bodies) {
    const body = new Reader(module, start);
    if (body.byte() !== 0x10) continue;
    const first = body.number();
    if (!voidTypes.has(types[first]!)) continue;
    let argument = 0;
    let operation = body.byte();
    for (; operation === 0x20 && body.number() === argument; argument += 1) operation = body.byte();
    if (operation !== 0x10) continue;
    body.number();
    operation = body.byte();
    // A call of the destructors may follow.
    if (operation === 0x10) [body.number(), (operation = body.byte())];
    if (operation === 0x0b && body.at === end) found.set(first, (found.get(first) ?? 0) + 1);
  }
  return found;
}
