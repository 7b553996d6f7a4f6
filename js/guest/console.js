// console: lines of the job's log, each with its level.
(function (native, shared) {
  "use strict";
  const P = shared.primordials;
  const { show } = shared;
  const DEBUG = 0, INFO = 1, WARN = 2, ERROR = 3;
  const LINE_CHARACTERS_MAX = 32768;

  const line = (level, text) => {
    const whole = P.String(text);
    if (whole.length <= LINE_CHARACTERS_MAX) native.log(level, whole);
    else native.log(level, `${P.slice(whole, 0, LINE_CHARACTERS_MAX)}... ${whole.length - LINE_CHARACTERS_MAX} more characters`);
  };
  shared.line = line;

  const number = (value, read) => (typeof value === "symbol" ? "NaN" : P.String(typeof value === "bigint" ? value : read(value)));

  // What %s, %d, %i, %f, %j, %o, %O and %c make of a value.
  const directive = (kind, value) => {
    switch (kind) {
      case "s": return typeof value === "object" && value !== null ? show(value) : show(value);
      case "d": return number(value, P.Number);
      case "i": return number(value, (v) => P.parseInt(v, 10));
      case "f": return number(value, P.parseFloat);
      case "j": try { return P.String(P.stringify(value)); } catch { return "[Circular]"; }
      case "c": return "";
      default: return show(value);
    }
  };

  const format = (values) => {
    let at = 0;
    let text = "";
    if (typeof values[0] === "string" && P.indexOf(values[0], "%") >= 0 && values.length > 1) {
      const template = values[0];
      at = 1;
      let from = 0;
      for (let found = P.indexOf(template, "%"); found >= 0 && found + 1 < template.length; found = P.indexOf(template, "%", from)) {
        const kind = template[found + 1];
        text += P.slice(template, from, found);
        from = found + 2;
        if (kind === "%") text += "%";
        else if (P.indexOf("sdifjoOc", kind) >= 0 && at < values.length) text += directive(kind, values[at++]);
        else text += "%" + kind;
      }
      text += P.slice(template, from);
      if (at < values.length) text += " ";
    }
    for (let first = at; at < values.length; at++) text += (at > first ? " " : "") + show(values[at]);
    return text;
  };

  let indent = "";
  const write = (level, values) => {
    const text = format(values);
    line(level, indent === "" ? text : indent + P.join(P.split(text, "\n"), "\n" + indent));
  };

  const counts = new P.Map();
  const timers = new P.Map();
  const label = (given) => (given === undefined ? "default" : P.String(given));
  const elapsed = (name) => `${name}: ${P.toFixed((native.clock(1) - P.mapGet(timers, name)) / 1000, 3)}ms`;
  const timed = (given, then) => {
    const name = label(given);
    if (P.mapHas(timers, name)) then(name);
    else line(WARN, `no timer '${name}'`);
  };

  const methods = {
    __proto__: null,
    log: (...values) => write(INFO, values),
    info: (...values) => write(INFO, values),
    debug: (...values) => write(DEBUG, values),
    warn: (...values) => write(WARN, values),
    error: (...values) => write(ERROR, values),
    dir: (value) => write(INFO, [value]),
    trace: (...values) => {
      const frames = native.frames(P.String(new P.Error().stack));
      write(DEBUG, [`Trace: ${format(values)}\n${P.endsWith(frames, "\n") ? P.slice(frames, 0, -1) : frames}`]);
    },
    assert: (condition, ...values) => {
      if (!condition) write(ERROR, values.length === 0 ? ["Assertion failed"] : ["Assertion failed:", ...values]);
    },
    count: (given) => {
      const name = label(given);
      P.mapSet(counts, name, (P.mapGet(counts, name) ?? 0) + 1);
      write(INFO, [`${name}: ${P.mapGet(counts, name)}`]);
    },
    countReset: (given) => { P.mapDelete(counts, label(given)); },
    time: (given) => { P.mapSet(timers, label(given), native.clock(1)); },
    timeLog: (given, ...values) => timed(given, (name) => write(INFO, [elapsed(name), ...values])),
    timeEnd: (given) => timed(given, (name) => {
      write(INFO, [elapsed(name)]);
      P.mapDelete(timers, name);
    }),
    group: (...values) => {
      if (values.length > 0) write(INFO, values);
      if (indent.length < 64) indent += "  ";
    },
    groupEnd: () => { indent = P.slice(indent, 2); },
  };
  const console = {};
  for (const name in methods) shared.define(console, name, methods[name], true);
  shared.define(console, P.toStringTag, "console");
  shared.define(globalThis, "console", console);
  shared.levels = { __proto__: null, debug: DEBUG, info: INFO, warn: WARN, error: ERROR };
  shared.format = format;
})
