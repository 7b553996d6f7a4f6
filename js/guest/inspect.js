// How values look in the log. Bounded in depth, width and length, and runs next to no code of the script:
// accessors are shown as such, proxies as proxies, and a property that cannot be read as that.
(function (native, shared) {
  "use strict";
  const P = shared.primordials;
  const DEPTH_MAX = 4;
  const ITEMS_MAX = 100;
  const TEXT_MAX = 10000;
  const LINE_WIDTH = 76;

  const quoted = (text) => {
    const cut = text.length > TEXT_MAX;
    let out = "'";
    for (let at = 0; at < text.length && at < TEXT_MAX; at++) {
      const code = P.charCodeAt(text, at);
      if (code === 39) out += "\\'";
      else if (code === 92) out += "\\\\";
      else if (code === 10) out += "\\n";
      else if (code === 13) out += "\\r";
      else if (code === 9) out += "\\t";
      else if (code < 32 || code === 127) out += "\\x" + P.padStart(P.numberToString(code, 16), 2, "0");
      else out += text[at];
    }
    return out + (cut ? `'... ${text.length - TEXT_MAX} more characters` : "'");
  };

  const identifier = (name) => {
    for (let at = 0; at < name.length; at++) {
      const code = P.charCodeAt(name, at) | 32;
      const letter = (code >= 97 && code <= 122) || name[at] === "_" || name[at] === "$";
      const digit = code >= 48 && code <= 57 && P.charCodeAt(name, at) === code;
      if (!letter && !(digit && at > 0)) return false;
    }
    return name.length > 0;
  };

  const keyText = (key) => {
    if (typeof key === "symbol") return `[${P.symbolToString(key)}]`;
    return identifier(key) ? key : quoted(key);
  };

  // A data property's value, without running a getter.
  const peek = (object, name) => {
    for (let at = object, hops = 0; at !== null && hops < 32; at = P.getPrototypeOf(at), hops++) {
      if (native.kind(at) === "Proxy") return undefined;
      const found = P.getOwnPropertyDescriptor(at, name);
      if (found) return found.value;
    }
    return undefined;
  };

  const className = (object) => {
    if (P.getPrototypeOf(object) === null) return null;
    const constructor = peek(object, "constructor");
    const name = typeof constructor === "function" ? peek(constructor, "name") : undefined;
    return typeof name === "string" && name !== "" ? name : "Object";
  };

  const primitive = (value, nested) => {
    switch (typeof value) {
      case "string": return nested ? quoted(value) : value;
      case "bigint": return P.String(value) + "n";
      case "symbol": return P.symbolToString(value);
      case "number": return P.is(value, -0) ? "-0" : P.String(value);
      default: return P.String(value);
    }
  };

  const functionText = (value) => {
    const name = peek(value, "name");
    const kind = P.startsWith(P.functionToString(value), "class") ? "class" : "Function";
    return typeof name === "string" && name !== "" ? `[${kind}: ${name}]` : `[${kind} (anonymous)]`;
  };

  const isError = (value) => value instanceof P.Error;

  const errorText = (error, state) => {
    let stack = error.stack;
    stack = typeof stack === "string" ? native.frames(stack) : "";
    let text = `${P.String(error.name)}: ${P.String(error.message)}`;
    if (P.endsWith(text, ": ")) text = P.slice(text, 0, -2);
    if (stack !== "") text += "\n" + (P.endsWith(stack, "\n") ? P.slice(stack, 0, -1) : stack);
    const cause = P.getOwnPropertyDescriptor(error, "cause");
    if (cause && "value" in cause && state.depth < DEPTH_MAX) text += `\n  [cause]: ${inspect(cause.value, deeper(state))}`;
    return text;
  };

  const deeper = (state) => ({ __proto__: null, depth: state.depth + 1, above: state.above, budget: state.budget });

  // One line if it fits, else one item a line.
  const layout = (open, items, close) => {
    if (items.length === 0) return open + close;
    let width = open.length;
    let lines = false;
    for (let at = 0; at < items.length; at++) {
      width += items[at].length + 2;
      if (P.indexOf(items[at], "\n") >= 0) lines = true;
    }
    if (width <= LINE_WIDTH && !lines) return `${open} ${P.join(items, ", ")} ${close}`;
    for (let at = 0; at < items.length; at++) items[at] = P.join(P.split(items[at], "\n"), "\n  ");
    return `${open}\n  ${P.join(items, ",\n  ")}\n${close}`;
  };

  const addProperty = (items, object, key, state) => {
    const found = P.getOwnPropertyDescriptor(object, key);
    if (!found || !found.enumerable) return;
    let text;
    if ("value" in found) text = inspect(found.value, state);
    else text = found.get ? (found.set ? "[Getter/Setter]" : "[Getter]") : "[Setter]";
    P.push(items, `${keyText(key)}: ${text}`);
  };

  const addProperties = (items, object, state, skipIndices) => {
    const keys = P.ownKeys(object);
    let shown = 0;
    for (let at = 0; at < keys.length; at++) {
      if (skipIndices && typeof keys[at] === "string" && `${keys[at] >>> 0}` === keys[at]) continue;
      if (shown++ >= ITEMS_MAX) {
        P.push(items, `... ${keys.length - at} more properties`);
        return;
      }
      addProperty(items, object, keys[at], state);
    }
  };

  const addElements = (items, array, length, state) => {
    for (let at = 0; at < length; at++) {
      if (at >= ITEMS_MAX) {
        P.push(items, `... ${length - at} more items`);
        return;
      }
      const found = P.getOwnPropertyDescriptor(array, at);
      P.push(items, found ? ("value" in found ? inspect(found.value, state) : "[Getter]") : "<empty>");
    }
  };

  const collection = (object, name, size, each, item, state) => {
    const items = [];
    let shown = 0;
    each(object, (value, key) => {
      if (shown++ < ITEMS_MAX) P.push(items, item(value, key));
    });
    if (shown > ITEMS_MAX) P.push(items, `... ${shown - ITEMS_MAX} more items`);
    addProperties(items, object, state, false);
    return layout(`${name}(${size}) {`, items, "}");
  };

  const objectText = (object, state) => {
    const name = className(object);
    const items = [];
    if (P.isArray(object)) {
      addElements(items, object, object.length, state);
      addProperties(items, object, state, true);
      return layout(name === "Array" ? "[" : `${name}(${object.length}) [`, items, "]");
    }
    const typed = P.typedArrayName(object);
    if (typed !== undefined) {
      const length = P.typedArrayLength(object);
      addElements(items, object, length, state);
      return layout(`${typed}(${length}) [`, items, "]");
    }
    if (shared.answers(P.mapSize, object)) {
      const item = (value, key) => `${inspect(key, state)} => ${inspect(value, state)}`;
      return collection(object, name, P.mapSize(object), P.mapEach, item, state);
    }
    if (shared.answers(P.setSize, object)) {
      return collection(object, name, P.setSize(object), P.setEach, (value) => inspect(value, state), state);
    }
    if (shared.answers(P.dateTime, object)) {
      const time = P.dateTime(object);
      return time === time ? P.dateToISO(object) : "Invalid Date";
    }
    if (object instanceof P.RegExp && shared.answers(P.regExpSource, object)) {
      return `/${P.regExpSource(object)}/${P.regExpFlags(object)}`;
    }
    if (shared.answers(P.bufferLength, object)) return `${name} { byteLength: ${P.bufferLength(object)} }`;
    addProperties(items, object, state, false);
    return layout(name === "Object" ? "{" : `${name === null ? "[Object: null prototype]" : name} {`, items, "}");
  };

  const inspect = (value, state) => {
    if (typeof value === "function") return functionText(value);
    if (typeof value !== "object" || value === null) return primitive(value, state.depth > 0);
    const kind = native.kind(value);
    if (kind !== undefined) return kind;
    if (P.setHas(state.above, value)) return "[Circular]";
    if (state.budget.left-- <= 0) return "...";
    if (isError(value)) return errorText(value, state);
    if (state.depth > DEPTH_MAX) return P.isArray(value) ? "[Array]" : `[${className(value) ?? "Object"}]`;
    P.setAdd(state.above, value);
    const text = objectText(value, deeper(state));
    // Seen beside is not seen above.
    P.setDelete(state.above, value);
    return text;
  };

  shared.inspect = (value) =>
    inspect(value, { __proto__: null, depth: 0, above: new P.Set(), budget: { __proto__: null, left: 2000 } });

  // Never throws, whatever is thrown at it.
  shared.show = (value) => {
    try {
      return shared.inspect(value);
    } catch {
      return "a value that cannot be shown";
    }
  };
})
