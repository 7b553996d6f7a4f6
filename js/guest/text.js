// TextEncoder and TextDecoder. UTF-8 is what there is to decode.
(function (native, shared) {
  "use strict";
  const P = shared.primordials;

  class TextEncoder {
    get encoding() { return "utf-8"; }

    encode(text = "") { return native.encode(P.toWellFormed(P.String(text))); }

    encodeInto(text, target) {
      if (P.typedArrayName(target) !== "Uint8Array") throw new P.TypeError("encodeInto needs a Uint8Array to write to");
      const source = P.toWellFormed(P.String(text));
      const room = P.typedArrayLength(target);
      let read = 0;
      let written = 0;
      while (read < source.length) {
        const point = P.codePointAt(source, read);
        const bytes = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
        if (written + bytes > room) break;
        written += bytes;
        read += bytes === 4 ? 2 : 1;
      }
      P.typedArraySet(target, native.encode(P.slice(source, 0, read)));
      return { read, written };
    }
  }

  // The bytes behind any view or buffer.
  const bytesOf = (source) => {
    if (source === undefined) return new P.Uint8Array(0);
    if (P.typedArrayName(source) !== undefined) {
      return new P.Uint8Array(P.typedArrayBuffer(source), P.typedArrayByteOffset(source), P.typedArrayByteLength(source));
    }
    if (P.isView(source)) return new P.Uint8Array(P.viewBuffer(source), P.viewByteOffset(source), P.viewByteLength(source));
    if (shared.answers(P.bufferLength, source)) return new P.Uint8Array(source);
    throw new P.TypeError("decode needs an ArrayBuffer, a typed array or a DataView");
  };
  shared.bytesOf = bytesOf;

  const LABELS = ["utf-8", "utf8", "unicode-1-1-utf-8", "unicode11utf8", "unicode20utf8", "x-unicode20utf8"];
  const known = (label) => {
    for (let at = 0; at < LABELS.length; at++) if (LABELS[at] === label) return true;
    return false;
  };

  class TextDecoder {
    #fatal;
    #ignoreBOM;
    #held = new P.Uint8Array(0);
    #begun = false;

    constructor(label = "utf-8", options = {}) {
      if (!known(P.toLowerCase(P.trim(P.String(label))))) {
        throw new P.RangeError(`TextDecoder knows UTF-8 alone, not '${P.slice(P.String(label), 0, 40)}'`);
      }
      this.#fatal = !!options?.fatal;
      this.#ignoreBOM = !!options?.ignoreBOM;
    }

    get encoding() { return "utf-8"; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#ignoreBOM; }

    decode(source, options) {
      const stream = !!options?.stream;
      let bytes = bytesOf(source);
      if (this.#held.length > 0) {
        const whole = new P.Uint8Array(this.#held.length + bytes.length);
        P.typedArraySet(whole, this.#held);
        P.typedArraySet(whole, bytes, this.#held.length);
        bytes = whole;
      }
      const held = stream ? native.incomplete(bytes) : 0;
      const length = P.typedArrayLength(bytes);
      let text = native.decode(held ? P.subarray(bytes, 0, length - held) : bytes, this.#fatal);
      const begun = this.#begun;
      // A copy: the caller may reuse its buffer.
      this.#held = held ? new P.Uint8Array(P.subarray(bytes, length - held)) : new P.Uint8Array(0);
      this.#begun = stream && (begun || length > held);
      if (text === null) {
        this.#held = new P.Uint8Array(0);
        throw new P.TypeError("the bytes are not UTF-8");
      }
      if (!begun && !this.#ignoreBOM && P.charCodeAt(text, 0) === 0xfeff) text = P.slice(text, 1);
      return text;
    }
  }

  shared.publish("TextEncoder", TextEncoder, ["encoding", "encode", "encodeInto"]);
  shared.publish("TextDecoder", TextDecoder, ["encoding", "fatal", "ignoreBOM", "decode"]);
})
