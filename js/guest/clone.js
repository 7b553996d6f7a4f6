// structuredClone.
(function (native, shared) {
  "use strict";
  const P = shared.primordials;

  const refuse = (what) => {
    throw new P.DOMException(`${what} cannot be cloned`, "DataCloneError");
  };

  const BOXES = [
    [P.booleanValue, P.Boolean], [P.numberValue, P.Number], [P.stringValue, P.String],
  ];
  const boxed = (value) => {
    for (let at = 0; at < BOXES.length; at++) {
      if (shared.answers(BOXES[at][0], value)) return P.construct(BOXES[at][1], [BOXES[at][0](value)]);
    }
    return shared.answers(P.bigintValue, value) ? P.Object(P.bigintValue(value)) : undefined;
  };

  const errorClone = (error, seen) => {
    const constructor = P.errors[error.name] ?? P.Error;
    const copy = P.construct(constructor, []);
    P.mapSet(seen, error, copy);
    for (const name of ["message", "stack"]) {
      if (typeof error[name] === "string") shared.define(copy, name, error[name]);
    }
    const cause = P.getOwnPropertyDescriptor(error, "cause");
    if (cause && "value" in cause) shared.define(copy, "cause", clone(cause.value, seen));
    return copy;
  };

  const views = { __proto__: null };
  for (const kind of [Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array,
    Float32Array, Float64Array, BigInt64Array, BigUint64Array]) views[kind.name] = kind;
  if (typeof Float16Array === "function") views.Float16Array = Float16Array;

  const viewClone = (value, seen) => {
    const name = P.typedArrayName(value);
    if (name === undefined) {
      const buffer = clone(P.viewBuffer(value), seen);
      return new P.DataView(buffer, P.viewByteOffset(value), P.viewByteLength(value));
    }
    const buffer = clone(P.typedArrayBuffer(value), seen);
    return P.construct(views[name], [buffer, P.typedArrayByteOffset(value), P.typedArrayLength(value)]);
  };

  // What is neither a plain object nor an array, and has an inside.
  const special = (value, seen) => {
    if (shared.answers(P.dateTime, value)) return new P.Date(P.dateTime(value));
    if (value instanceof P.RegExp && shared.answers(P.regExpSource, value)) {
      return new P.RegExp(P.regExpSource(value), P.regExpFlags(value));
    }
    if (shared.answers(P.bufferLength, value)) return P.bufferSlice(value, 0);
    if (P.isView(value)) return viewClone(value, seen);
    return boxed(value);
  };

  const clone = (value, seen) => {
    if (typeof value === "symbol") refuse(P.symbolToString(value));
    if (typeof value === "function") refuse(`function ${P.String(value.name)}`);
    if (typeof value !== "object" || value === null) return value;
    if (P.mapHas(seen, value)) return P.mapGet(seen, value);
    const kind = native.kind(value);
    if (kind !== undefined) refuse(kind);
    if (value instanceof P.Error) return errorClone(value, seen);
    if (shared.answers(P.mapSize, value)) {
      const copy = new P.Map();
      P.mapSet(seen, value, copy);
      const entries = [];
      P.mapEach(value, (of, key) => P.push(entries, key, of));
      for (let at = 0; at < entries.length; at += 2) P.mapSet(copy, clone(entries[at], seen), clone(entries[at + 1], seen));
      return copy;
    }
    if (shared.answers(P.setSize, value)) {
      const copy = new P.Set();
      P.mapSet(seen, value, copy);
      const members = [];
      P.setEach(value, (member) => P.push(members, member));
      for (let at = 0; at < members.length; at++) P.setAdd(copy, clone(members[at], seen));
      return copy;
    }
    const found = P.isArray(value) ? undefined : special(value, seen);
    if (found !== undefined) {
      P.mapSet(seen, value, found);
      return found;
    }
    const tag = P.objectToString(value);
    if (tag !== "[object Object]" && tag !== "[object Array]" && tag !== "[object Arguments]" &&
        P.getOwnPropertyDescriptor(value, P.toStringTag) === undefined &&
        (tag === "[object WeakMap]" || tag === "[object WeakSet]" || tag === "[object WeakRef]" || tag === "[object Generator]")) {
      refuse(tag);
    }
    const copy = P.isArray(value) ? new P.Array(value.length) : {};
    P.mapSet(seen, value, copy);
    const keys = P.keys(value);
    for (let at = 0; at < keys.length; at++) {
      if (P.hasOwn(value, keys[at])) shared.define(copy, keys[at], clone(value[keys[at]], seen), true);
    }
    return copy;
  };

  shared.define(globalThis, "structuredClone", function structuredClone(value, options) {
    if (arguments.length === 0) throw new P.TypeError("structuredClone needs a value");
    const transfer = options?.transfer;
    if (transfer !== undefined && transfer.length > 0) {
      throw new P.DOMException("nothing can be transferred: there is nowhere else", "DataCloneError");
    }
    return clone(value, new P.Map());
  });
})
