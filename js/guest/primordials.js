// What the other scripts use of the language, taken before a user's script can replace it. Nothing here calls a method
// by its name on an object, so that replacing `Array.prototype.push` breaks the replacer's own code and not ours.
(function (native, shared) {
  "use strict";
  const { apply, construct, defineProperty, getOwnPropertyDescriptor, getPrototypeOf, ownKeys } = Reflect;
  const { call } = Function.prototype;
  // (receiver, ...arguments) => receiver.method(...arguments)
  const method = apply(Function.prototype.bind, Function.prototype.bind, [call]);
  const getter = (of, name) => method(getOwnPropertyDescriptor(of, name).get);
  const TypedArray = getPrototypeOf(Uint8Array);

  shared.primordials = {
    __proto__: null,
    method, apply, construct, defineProperty, getOwnPropertyDescriptor, getPrototypeOf, ownKeys,
    create: Object.create, freeze: Object.freeze, keys: Object.keys, isArray: Array.isArray,
    stringify: JSON.stringify, is: Object.is,
    String, Number, BigInt, Array, Object, Error, TypeError, RangeError, Map, Set, Date, RegExp, Promise, Symbol,
    Uint8Array, ArrayBuffer, DataView, DOMException, Boolean, TypedArray,
    errors: { __proto__: null, Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError },
    iterator: Symbol.iterator, toStringTag: Symbol.toStringTag,
    fromCharCode: String.fromCharCode, fromCodePoint: String.fromCodePoint,
    isView: ArrayBuffer.isView, floor: Math.floor, min: Math.min, max: Math.max, trunc: Math.trunc,
    isInteger: Number.isInteger, isFinite: Number.isFinite, parseInt, parseFloat, encodeURIComponent,
    hasOwn: Object.hasOwn,
    objectToString: method(Object.prototype.toString),
    functionToString: method(Function.prototype.toString),
    charCodeAt: method(String.prototype.charCodeAt), codePointAt: method(String.prototype.codePointAt),
    indexOf: method(String.prototype.indexOf), slice: method(String.prototype.slice),
    lastIndexOf: method(String.prototype.lastIndexOf),
    startsWith: method(String.prototype.startsWith), endsWith: method(String.prototype.endsWith),
    split: method(String.prototype.split), toLowerCase: method(String.prototype.toLowerCase),
    toWellFormed: method(String.prototype.toWellFormed), repeat: method(String.prototype.repeat),
    padStart: method(String.prototype.padStart), normalize: method(String.prototype.normalize),
    trim: method(String.prototype.trim),
    numberToString: method(Number.prototype.toString), toFixed: method(Number.prototype.toFixed),
    symbolToString: method(Symbol.prototype.toString), symbolDescription: getter(Symbol.prototype, "description"),
    join: method(Array.prototype.join), push: method(Array.prototype.push), pop: method(Array.prototype.pop),
    sort: method(Array.prototype.sort), splice: method(Array.prototype.splice),
    arraySlice: method(Array.prototype.slice),
    mapEach: method(Map.prototype.forEach), mapSet: method(Map.prototype.set), mapGet: method(Map.prototype.get),
    mapHas: method(Map.prototype.has), mapDelete: method(Map.prototype.delete), mapSize: getter(Map.prototype, "size"),
    setEach: method(Set.prototype.forEach), setAdd: method(Set.prototype.add), setHas: method(Set.prototype.has),
    setDelete: method(Set.prototype.delete),
    setSize: getter(Set.prototype, "size"),
    dateTime: method(Date.prototype.getTime), dateToISO: method(Date.prototype.toISOString),
    regExpSource: getter(RegExp.prototype, "source"), regExpFlags: getter(RegExp.prototype, "flags"),
    booleanValue: method(Boolean.prototype.valueOf), numberValue: method(Number.prototype.valueOf),
    stringValue: method(String.prototype.valueOf), bigintValue: method(BigInt.prototype.valueOf),
    bufferLength: getter(ArrayBuffer.prototype, "byteLength"), bufferSlice: method(ArrayBuffer.prototype.slice),
    // The name of a typed array's kind; undefined for all else. Looks at no property a script could define.
    typedArrayName: getter(TypedArray.prototype, Symbol.toStringTag),
    typedArrayLength: getter(TypedArray.prototype, "length"),
    typedArrayBuffer: getter(TypedArray.prototype, "buffer"),
    typedArrayByteOffset: getter(TypedArray.prototype, "byteOffset"),
    typedArrayByteLength: getter(TypedArray.prototype, "byteLength"),
    typedArraySet: method(TypedArray.prototype.set), subarray: method(TypedArray.prototype.subarray),
    viewBuffer: getter(DataView.prototype, "buffer"), viewByteOffset: getter(DataView.prototype, "byteOffset"),
    viewByteLength: getter(DataView.prototype, "byteLength"),
    resolve: method(Promise.resolve), now: Date.now,
  };

  // Whether `read(value)` is one of those above that throw for values of another kind.
  shared.answers = (read, value) => {
    try {
      read(value);
      return true;
    } catch {
      return false;
    }
  };

  shared.define = (object, name, value, enumerable = false) =>
    defineProperty(object, name, { __proto__: null, value, writable: true, configurable: true, enumerable });

  // Makes a class look as the platform's own do: its name as a tag, its methods enumerable.
  shared.publish = (name, constructor, methods) => {
    const { prototype } = constructor;
    for (let at = 0; at < methods.length; at++) {
      const found = getOwnPropertyDescriptor(prototype, methods[at]);
      found.enumerable = true;
      defineProperty(prototype, methods[at], found);
    }
    defineProperty(prototype, Symbol.toStringTag, { __proto__: null, value: name, configurable: true });
    shared.define(globalThis, name, constructor);
  };
})
