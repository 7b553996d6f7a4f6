// What belongs to one job: its time, its chance, its timers, its context.
(function (native, shared) {
  "use strict";
  const P = shared.primordials;
  const RANDOM_BYTES_MAX = 65536;
  const TIMERS_MAX = 10000;
  const DELAY_MS_MAX = 2147483647;

  // Chance. The engine's own was seeded before there was a job.
  shared.define(Math, "random", native.random);
  const INTEGERS = ["Int8Array", "Uint8Array", "Uint8ClampedArray", "Int16Array", "Uint16Array", "Int32Array",
    "Uint32Array", "BigInt64Array", "BigUint64Array"];
  const hex = (byte) => P.padStart(P.numberToString(byte, 16), 2, "0");
  class Crypto {
    getRandomValues(array) {
      const name = P.typedArrayName(array);
      let fits = false;
      for (let at = 0; at < INTEGERS.length; at++) fits ||= INTEGERS[at] === name;
      if (!fits) throw new P.DOMException("getRandomValues fills an array of integers", "TypeMismatchError");
      if (P.typedArrayByteLength(array) > RANDOM_BYTES_MAX) {
        throw new P.DOMException(`getRandomValues fills at most ${RANDOM_BYTES_MAX} bytes`, "QuotaExceededError");
      }
      native.fill(shared.bytesOf(array));
      return array;
    }

    randomUUID() {
      const bytes = new P.Uint8Array(16);
      native.fill(bytes);
      bytes[6] = (bytes[6] & 0x0f) | 0x40;
      bytes[8] = (bytes[8] & 0x3f) | 0x80;
      let text = "";
      for (let at = 0; at < 16; at++) text += (at === 4 || at === 6 || at === 8 || at === 10 ? "-" : "") + hex(bytes[at]);
      return text;
    }
  }
  shared.publish("Crypto", Crypto, ["getRandomValues", "randomUUID"]);
  shared.define(globalThis, "crypto", new Crypto());

  // Time. The engine's `performance` counts from when it was made.
  let began = 0;
  let beganAt = 0;
  class Performance {
    now() { return (native.clock(1) - began) / 1000; }
    get timeOrigin() { return beganAt; }
    toJSON() { return { timeOrigin: beganAt }; }
  }
  shared.publish("Performance", Performance, ["now", "timeOrigin", "toJSON"]);
  shared.define(globalThis, "performance", new Performance());

  // Timers: a list, the next one last.
  const timers = [];
  let lastTimer = 0;
  const later = (one, other) => other.due - one.due || other.id - one.id;
  const milliseconds = (delay) => {
    const number = P.Number(delay);
    return number >= 1 && number <= DELAY_MS_MAX ? P.trunc(number) : 1;
  };
  const start = (repeats, call, delay, values) => {
    if (typeof call !== "function") throw new P.TypeError("a timer needs a function to call");
    if (timers.length >= TIMERS_MAX) throw new P.RangeError(`a job has at most ${TIMERS_MAX} timers`);
    const ms = milliseconds(delay);
    const id = ++lastTimer;
    insert({ __proto__: null, id, due: native.clock(1) + ms * 1000, every: repeats ? ms : 0, call, values });
    return id;
  };
  const insert = (timer) => {
    let low = 0;
    let high = timers.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (later(timers[middle], timer) < 0) low = middle + 1;
      else high = middle;
    }
    P.splice(timers, low, 0, timer);
  };
  const stop = (id) => {
    for (let at = 0; at < timers.length; at++) {
      if (timers[at].id === id) {
        P.splice(timers, at, 1);
        return;
      }
    }
  };
  shared.define(globalThis, "setTimeout", function setTimeout(call, delay, ...values) { return start(false, call, delay, values); });
  shared.define(globalThis, "setInterval", function setInterval(call, delay, ...values) { return start(true, call, delay, values); });
  shared.define(globalThis, "clearTimeout", function clearTimeout(id) { stop(id); });
  shared.define(globalThis, "clearInterval", function clearInterval(id) { stop(id); });
  shared.nextTimer = () => {
    if (timers.length === 0) return -1;
    const wait = (timers[timers.length - 1].due - native.clock(1)) / 1000;
    return wait > 0 ? wait : 0;
  };
  shared.runTimer = () => {
    const timer = P.pop(timers);
    if (timer.every > 0) {
      timer.due = native.clock(1) + timer.every * 1000;
      insert(timer);
    }
    P.apply(timer.call, undefined, timer.values);
  };

  // Read where the script's own variables are: `let output` and `const output` are no properties of the global object.
  shared.output = () => (typeof output === "undefined" ? undefined : output);
  shared.awaited = async (value) => await value;

  // The context: ids and deadline as plain properties, the host's functions behind them.
  const ENVIRONMENT = 2;
  const environment = () => {
    const found = {};
    const reply = native.call(ENVIRONMENT, "");
    if (reply === undefined) return found;
    const pairs = P.split(reply, "\0");
    for (let at = 0; at + 1 < pairs.length; at += 2) shared.define(found, pairs[at], pairs[at + 1], true);
    return P.freeze(found);
  };
  const log = {};
  for (const name in shared.levels) {
    shared.define(log, name, (...values) => shared.line(shared.levels[name], shared.format(values)), true);
  }
  P.freeze(log);

  // `about` is "name\0value\0" again and again.
  shared.begin = (about) => {
    began = native.clock(1);
    beganAt = native.clock(0) / 1000;
    const context = {};
    const pairs = P.split(about, "\0");
    for (let at = 0; at + 1 < pairs.length; at += 2) {
      const value = pairs[at] === "deadline" ? P.Number(pairs[at + 1]) : pairs[at + 1];
      shared.define(context, pairs[at], value, true);
    }
    let env;
    shared.define(context, "log", log);
    P.defineProperty(context, "env", { __proto__: null, get: () => (env ??= environment()), enumerable: false, configurable: true });
    shared.define(context, "remaining", () => P.max(0, (context.deadline ?? P.Number.MAX_SAFE_INTEGER) - native.clock(0) / 1000));
    return context;
  };
})
