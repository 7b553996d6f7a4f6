// URL and URLSearchParams, after the URL standard.
(function (native, shared) {
  "use strict";
  const P = shared.primordials;
  const PORTS = { __proto__: null, "http:": 80, "https:": 443, "ws:": 80, "wss:": 443, "ftp:": 21, "file:": -1 };
  const isSpecial = (url) => PORTS[url.scheme] !== undefined;

  // What is percent-encoded where, besides controls and all beyond ASCII.
  const FRAGMENT = ' "<>`';
  const QUERY = ' "#<>';
  const SPECIAL_QUERY = ` "#<>'`;
  const PATH = ' "#<>?^`{}';
  const USERINFO = ' "#<>?^`{}/:;=@[\\]|';
  const upper = (byte) => {
    let text = "%";
    for (const half of [byte >> 4, byte & 15]) text += "0123456789ABCDEF"[half];
    return text;
  };
  const encode = (text, set) => {
    let out = "";
    for (let at = 0; at < text.length; at++) {
      const code = P.charCodeAt(text, at);
      if (code > 31 && code < 127) {
        out += P.indexOf(set, text[at]) >= 0 ? upper(code) : text[at];
        continue;
      }
      const point = P.codePointAt(text, at);
      const bytes = native.encode(P.toWellFormed(P.fromCodePoint(point)));
      for (let byte = 0; byte < P.typedArrayLength(bytes); byte++) out += upper(bytes[byte]);
      if (point > 0xffff) at++;
    }
    return out;
  };

  const isAlpha = (code) => (code | 32) >= 97 && (code | 32) <= 122;
  const isDigit = (code) => code >= 48 && code <= 57;

  const stripped = (text) => {
    let from = 0;
    let to = text.length;
    while (from < to && P.charCodeAt(text, from) <= 32) from++;
    while (to > from && P.charCodeAt(text, to - 1) <= 32) to--;
    let out = "";
    for (let at = from; at < to; at++) {
      const c = text[at];
      if (c !== "\t" && c !== "\n" && c !== "\r") out += c;
    }
    return out;
  };

  const schemeOf = (text) => {
    if (!isAlpha(P.charCodeAt(text, 0))) return undefined;
    for (let at = 1; at < text.length; at++) {
      const code = P.charCodeAt(text, at);
      if (text[at] === ":") return P.toLowerCase(P.slice(text, 0, at + 1));
      if (!isAlpha(code) && !isDigit(code) && text[at] !== "+" && text[at] !== "-" && text[at] !== ".") return undefined;
    }
    return undefined;
  };

  const isDrive = (text, marks) => text.length === 2 && isAlpha(P.charCodeAt(text, 0)) && P.indexOf(marks, text[1]) >= 0;
  const startsWithDrive = (text) =>
    isDrive(P.slice(text, 0, 2), ":|") && (text.length === 2 || text[2] === "/" || text[2] === "\\");
  const isSlash = (c, url) => c === "/" || (c === "\\" && isSpecial(url));
  const isDot = (segment) => segment === "." || P.toLowerCase(segment) === "%2e";
  const isDoubleDot = (segment) => {
    const low = P.toLowerCase(segment);
    return low === ".." || low === ".%2e" || low === "%2e." || low === "%2e%2e";
  };
  const shorten = (url) => {
    if (url.scheme === "file:" && url.path.length === 1 && isDrive(url.path[0], ":")) return;
    P.pop(url.path);
  };

  // Appends the segments of `text` to the path.
  const addPath = (url, text) => {
    let from = 0;
    for (let at = 0; at <= text.length; at++) {
      const end = at === text.length;
      if (!end && !isSlash(text[at], url)) continue;
      let segment = P.slice(text, from, at);
      from = at + 1;
      if (isDoubleDot(segment)) {
        shorten(url);
        if (end) P.push(url.path, "");
      } else if (isDot(segment)) {
        if (end) P.push(url.path, "");
      } else {
        if (url.scheme === "file:" && url.path.length === 0 && isDrive(segment, ":|")) segment = segment[0] + ":";
        P.push(url.path, encode(segment, PATH));
      }
    }
  };
  // A path that begins where the authority ended.
  const setPath = (url, text) => {
    url.path = [];
    if (isSpecial(url)) addPath(url, isSlash(text[0], url) ? P.slice(text, 1) : text);
    else if (text !== "") addPath(url, text[0] === "/" ? P.slice(text, 1) : text);
  };

  // Reads "host:port"; false if it is neither.
  const setHostAndPort = (url, text) => {
    let colon = -1;
    let inside = false;
    for (let at = 0; at < text.length && colon < 0; at++) {
      if (text[at] === "[") inside = true;
      else if (text[at] === "]") inside = false;
      else if (text[at] === ":" && !inside) colon = at;
    }
    const name = colon < 0 ? text : P.slice(text, 0, colon);
    if (name === "" && (isSpecial(url) || colon >= 0)) return false;
    const host = name === "" ? "" : shared.parseHost(name, isSpecial(url), (of) => encode(of, ""));
    if (host === undefined) return false;
    url.host = host;
    return colon < 0 || setPort(url, P.slice(text, colon + 1), false);
  };
  // `lenient`: what comes after the digits is left, as the setter has it.
  const setPort = (url, text, lenient) => {
    let digits = 0;
    while (digits < text.length && isDigit(P.charCodeAt(text, digits))) digits++;
    if (digits < text.length && (!lenient || digits === 0)) return false;
    if (digits === 0) {
      if (!lenient) return true;
      url.port = null;
      return true;
    }
    const port = P.Number(P.slice(text, 0, digits));
    if (port > 65535) return false;
    url.port = port === PORTS[url.scheme] ? null : port;
    return true;
  };

  // What follows "//".
  const setAuthority = (url, text) => {
    let end = 0;
    while (end < text.length && !isSlash(text[end], url)) end++;
    const authority = P.slice(text, 0, end);
    const at = P.lastIndexOf(authority, "@");
    if (at >= 0) {
      const user = P.slice(authority, 0, at);
      const colon = P.indexOf(user, ":");
      url.username = encode(colon < 0 ? user : P.slice(user, 0, colon), USERINFO);
      url.password = colon < 0 ? "" : encode(P.slice(user, colon + 1), USERINFO);
      if (at + 1 === authority.length) return false;
    }
    if (!setHostAndPort(url, P.slice(authority, at + 1))) return false;
    setPath(url, P.slice(text, end));
    return true;
  };
  const setAuthorityAfterSlashes = (url, text) => {
    let from = 0;
    while (text[from] === "/" || text[from] === "\\") from++;
    return setAuthority(url, P.slice(text, from));
  };

  const inherit = (url, base) => {
    url.username = base.username;
    url.password = base.password;
    url.host = base.host;
    url.port = base.port;
  };

  // The base's path with its last segment replaced, or the base's own path and query where there is nothing.
  const addRelativePath = (url, base, text) => {
    url.path = P.arraySlice(base.path);
    if (text === "") {
      if (url.query === null) url.query = base.query;
      return;
    }
    if (url.scheme === "file:" && startsWithDrive(text)) url.path = [];
    else shorten(url);
    addPath(url, text);
  };

  const setRelative = (url, base, text) => {
    url.scheme = base.scheme;
    if (isSlash(text[0], url)) {
      if (isSpecial(url) && isSlash(text[1], url)) return setAuthorityAfterSlashes(url, P.slice(text, 2));
      if (text[1] === "/") return setAuthority(url, P.slice(text, 2));
      inherit(url, base);
      setPath(url, text);
      return true;
    }
    inherit(url, base);
    addRelativePath(url, base, text);
    return true;
  };

  const setFile = (url, base, text) => {
    const local = base !== null && base.scheme === "file:";
    url.scheme = "file:";
    url.host = "";
    if (isSlash(text[0], url) && isSlash(text[1], url)) {
      let end = 2;
      while (end < text.length && !isSlash(text[end], url)) end++;
      const name = P.slice(text, 2, end);
      if (isDrive(name, ":|")) {
        url.path = [];
        addPath(url, P.slice(text, 2));
        return true;
      }
      const host = name === "" ? "" : shared.parseHost(name, true);
      if (host === undefined) return false;
      url.host = host === "localhost" ? "" : host;
      setPath(url, P.slice(text, end));
    } else if (isSlash(text[0], url)) {
      const rest = P.slice(text, 1);
      url.path = [];
      if (local) {
        url.host = base.host;
        if (!startsWithDrive(rest) && base.path.length > 0 && isDrive(base.path[0], ":")) P.push(url.path, base.path[0]);
      }
      addPath(url, rest);
    } else if (local) {
      url.host = base.host;
      addRelativePath(url, base, text);
    } else {
      url.path = [];
      addPath(url, text);
    }
    return true;
  };

  // Cuts "?query" and "#fragment" off, encoded later: how depends on the scheme.
  const cut = (text) => {
    const hash = P.indexOf(text, "#");
    const fragment = hash < 0 ? null : P.slice(text, hash + 1);
    if (hash >= 0) text = P.slice(text, 0, hash);
    const mark = P.indexOf(text, "?");
    const query = mark < 0 ? null : P.slice(text, mark + 1);
    return [mark < 0 ? text : P.slice(text, 0, mark), query, fragment];
  };

  const setHierarchy = (url, base, text) => {
    const scheme = schemeOf(text);
    if (scheme === undefined) {
      if (base === null) return false;
      if (typeof base.path === "string") {
        if (text !== "" || url.query !== null || url.fragment === null) return false;
        url.scheme = base.scheme;
        url.path = base.path;
        url.query = base.query;
        return true;
      }
      return base.scheme === "file:" ? setFile(url, base, text) : setRelative(url, base, text);
    }
    url.scheme = scheme;
    const rest = P.slice(text, scheme.length);
    if (scheme === "file:") return setFile(url, base, rest);
    if (isSpecial(url)) {
      const relative = base !== null && base.scheme === scheme && !P.startsWith(rest, "//");
      return relative ? setRelative(url, base, rest) : setAuthorityAfterSlashes(url, rest);
    }
    if (P.startsWith(rest, "//")) return setAuthority(url, P.slice(rest, 2));
    if (rest[0] === "/") setPath(url, rest);
    else url.path = encode(rest, "");
    return true;
  };

  // A parsed URL, or null.
  const parse = (input, base) => {
    const [text, query, fragment] = cut(stripped(input));
    const url = { __proto__: null, scheme: "", username: "", password: "", host: null, port: null, path: [], query: null, fragment };
    url.query = query;
    if (!setHierarchy(url, base, text)) return null;
    if (query !== null) url.query = encode(query, isSpecial(url) ? SPECIAL_QUERY : QUERY);
    if (fragment !== null) url.fragment = encode(fragment, FRAGMENT);
    return url;
  };

  const pathOf = (url) => {
    if (typeof url.path === "string") return url.path;
    let text = "";
    for (let at = 0; at < url.path.length; at++) text += "/" + url.path[at];
    return text;
  };
  const hostOf = (url) => (url.host === null ? "" : url.port === null ? url.host : `${url.host}:${url.port}`);
  const hrefOf = (url) => {
    let text = url.scheme;
    if (url.host !== null) {
      text += "//";
      if (url.username !== "" || url.password !== "") text += url.username + (url.password === "" ? "" : ":" + url.password) + "@";
      text += hostOf(url);
    } else if (typeof url.path !== "string" && url.path.length > 1 && url.path[0] === "") text += "/.";
    text += pathOf(url);
    if (url.query !== null) text += "?" + url.query;
    if (url.fragment !== null) text += "#" + url.fragment;
    return text;
  };
  const originOf = (url) => {
    if (url.scheme === "blob:") {
      const inner = parse(pathOf(url), null);
      return inner !== null && (inner.scheme === "http:" || inner.scheme === "https:") ? originOf(inner) : "null";
    }
    return isSpecial(url) && url.scheme !== "file:" ? `${url.scheme}//${hostOf(url)}` : "null";
  };

  // application/x-www-form-urlencoded
  const formEncode = (text) => {
    let out = "";
    const bytes = native.encode(P.toWellFormed(text));
    for (let at = 0; at < P.typedArrayLength(bytes); at++) {
      const byte = bytes[at];
      if (isAlpha(byte) || isDigit(byte) || byte === 42 || byte === 45 || byte === 46 || byte === 95) out += P.fromCharCode(byte);
      else out += byte === 32 ? "+" : upper(byte);
    }
    return out;
  };
  const formDecode = (text) => native.decode(shared.percentDecode(P.join(P.split(text, "+"), " ")), false);
  const formPairs = (text) => {
    const pairs = [];
    const parts = P.split(text, "&");
    for (let at = 0; at < parts.length; at++) {
      if (parts[at] === "") continue;
      const equals = P.indexOf(parts[at], "=");
      const name = equals < 0 ? parts[at] : P.slice(parts[at], 0, equals);
      P.push(pairs, [formDecode(name), equals < 0 ? "" : formDecode(P.slice(parts[at], equals + 1))]);
    }
    return pairs;
  };
  const formText = (pairs) => {
    let text = "";
    for (let at = 0; at < pairs.length; at++) text += (at > 0 ? "&" : "") + formEncode(pairs[at][0]) + "=" + formEncode(pairs[at][1]);
    return text;
  };
  const usv = (value) => P.toWellFormed(P.String(value));

  let attach;
  let refresh;
  const iteratorPrototype = P.create(P.getPrototypeOf(P.getPrototypeOf([][P.iterator]())));
  const iterate = (pairs, pick) => {
    let at = 0;
    const iterator = P.create(iteratorPrototype);
    shared.define(iterator, "next", () => {
      const list = pairs();
      return at < list.length ? { value: pick(list[at++]), done: false } : { value: undefined, done: true };
    });
    return iterator;
  };

  class URLSearchParams {
    #pairs = [];
    #changed = () => {};

    static {
      attach = (params, changed) => { params.#changed = changed; };
      refresh = (params, query) => { params.#pairs = formPairs(query); };
    }

    constructor(init = "") {
      if (typeof init === "object" && init !== null) {
        if (init[P.iterator] === undefined) {
          const keys = P.keys(init);
          for (let at = 0; at < keys.length; at++) P.push(this.#pairs, [usv(keys[at]), usv(init[keys[at]])]);
          return;
        }
        for (const pair of init) {
          const [name, value, ...rest] = pair;
          if (value === undefined || rest.length > 0) throw new P.TypeError("URLSearchParams takes pairs of a name and a value");
          P.push(this.#pairs, [usv(name), usv(value)]);
        }
        return;
      }
      const text = usv(init);
      this.#pairs = formPairs(text[0] === "?" ? P.slice(text, 1) : text);
    }

    get size() { return this.#pairs.length; }

    append(name, value) {
      P.push(this.#pairs, [usv(name), usv(value)]);
      this.#changed(this.toString());
    }

    delete(name, value) {
      name = usv(name);
      const kept = [];
      for (let at = 0; at < this.#pairs.length; at++) {
        const pair = this.#pairs[at];
        if (pair[0] !== name || (value !== undefined && pair[1] !== usv(value))) P.push(kept, pair);
      }
      this.#pairs = kept;
      this.#changed(formText(kept));
    }

    get(name) {
      name = usv(name);
      for (let at = 0; at < this.#pairs.length; at++) if (this.#pairs[at][0] === name) return this.#pairs[at][1];
      return null;
    }

    getAll(name) {
      name = usv(name);
      const found = [];
      for (let at = 0; at < this.#pairs.length; at++) if (this.#pairs[at][0] === name) P.push(found, this.#pairs[at][1]);
      return found;
    }

    has(name, value) {
      name = usv(name);
      for (let at = 0; at < this.#pairs.length; at++) {
        const pair = this.#pairs[at];
        if (pair[0] === name && (value === undefined || pair[1] === usv(value))) return true;
      }
      return false;
    }

    set(name, value) {
      name = usv(name);
      value = usv(value);
      const kept = [];
      let found = false;
      for (let at = 0; at < this.#pairs.length; at++) {
        const pair = this.#pairs[at];
        if (pair[0] !== name) P.push(kept, pair);
        else if (!found) P.push(kept, [name, value]);
        found ||= pair[0] === name;
      }
      if (!found) P.push(kept, [name, value]);
      this.#pairs = kept;
      this.#changed(formText(kept));
    }

    sort() {
      P.sort(this.#pairs, (one, other) => (one[0] < other[0] ? -1 : one[0] > other[0] ? 1 : 0));
      this.#changed(formText(this.#pairs));
    }

    forEach(call, receiver) {
      for (let at = 0; at < this.#pairs.length; at++) P.apply(call, receiver, [this.#pairs[at][1], this.#pairs[at][0], this]);
    }

    entries() { return iterate(() => this.#pairs, (pair) => [pair[0], pair[1]]); }
    keys() { return iterate(() => this.#pairs, (pair) => pair[0]); }
    values() { return iterate(() => this.#pairs, (pair) => pair[1]); }
    toString() { return formText(this.#pairs); }
  }
  shared.define(URLSearchParams.prototype, P.iterator, URLSearchParams.prototype.entries);

  const record = (input, base) => {
    const under = base === undefined ? null : parse(usv(base), null);
    if (base !== undefined && under === null) return null;
    return parse(usv(input), under);
  };

  class URL {
    #url;
    #params;

    constructor(input, base) {
      const url = record(input, base);
      if (url === null) {
        const against = base === undefined ? "" : ` against ${P.stringify(P.slice(P.String(base), 0, 200))}`;
        throw new P.TypeError(`not a URL: ${P.stringify(P.slice(P.String(input), 0, 200))}${against}`);
      }
      this.#url = url;
      this.#params = new URLSearchParams(url.query ?? "");
      attach(this.#params, (query) => { this.#url.query = query === "" ? null : query; });
    }

    static canParse(input, base) { return record(input, base) !== null; }
    static parse(input, base) { return URL.canParse(input, base) ? new URL(input, base) : null; }

    get href() { return hrefOf(this.#url); }
    set href(text) {
      const url = parse(usv(text), null);
      if (url === null) throw new P.TypeError("not a URL");
      this.#url = url;
      refresh(this.#params, url.query ?? "");
    }
    get origin() { return originOf(this.#url); }
    get protocol() { return this.#url.scheme; }
    set protocol(text) {
      const url = this.#url;
      const scheme = schemeOf(usv(text) + ":");
      if (scheme === undefined) return;
      const special = PORTS[scheme] !== undefined;
      if (special !== isSpecial(url)) return;
      if (scheme === "file:" && (url.username !== "" || url.password !== "" || url.port !== null)) return;
      if (url.scheme === "file:" && url.host === "") return;
      url.scheme = scheme;
      if (url.port === PORTS[scheme]) url.port = null;
    }
    #mayHaveUser() { return this.#url.host !== null && this.#url.host !== "" && this.#url.scheme !== "file:"; }
    get username() { return this.#url.username; }
    set username(text) { if (this.#mayHaveUser()) this.#url.username = encode(usv(text), USERINFO); }
    get password() { return this.#url.password; }
    set password(text) { if (this.#mayHaveUser()) this.#url.password = encode(usv(text), USERINFO); }
    get host() { return hostOf(this.#url); }
    set host(text) { this.#setHost(text, true); }
    get hostname() { return this.#url.host ?? ""; }
    set hostname(text) { this.#setHost(text, false); }
    #setHost(given, withPort) {
      const url = this.#url;
      if (typeof url.path === "string") return;
      const text = stripped(usv(given));
      let end = 0;
      while (end < text.length && !isSlash(text[end], url) && text[end] !== "?" && text[end] !== "#") end++;
      const copy = { __proto__: null, scheme: url.scheme, host: url.host, port: url.port };
      let host = P.slice(text, 0, end);
      if (!withPort) {
        const colon = host[0] === "[" ? P.indexOf(host, "]:") : P.indexOf(host, ":");
        if (colon >= 0) return;
      }
      if (host === "" && (isSpecial(url) ? url.scheme !== "file:" : url.username !== "" || url.password !== "" || url.port !== null)) return;
      if (host === "" || !setHostAndPort(copy, host)) {
        if (host !== "") return;
        copy.host = "";
      }
      url.host = url.scheme === "file:" && copy.host === "localhost" ? "" : copy.host;
      if (withPort) url.port = copy.port;
    }
    get port() { return this.#url.port === null ? "" : P.String(this.#url.port); }
    set port(text) { if (this.#mayHaveUser()) setPort(this.#url, stripped(usv(text)), true); }
    get pathname() { return pathOf(this.#url); }
    set pathname(text) {
      if (typeof this.#url.path === "string") return;
      const path = P.join(P.split(P.join(P.split(usv(text), "?"), "%3F"), "#"), "%23");
      setPath(this.#url, path);
    }
    get search() { return this.#url.query === null || this.#url.query === "" ? "" : "?" + this.#url.query; }
    set search(given) {
      const text = usv(given);
      const query = text[0] === "?" ? P.slice(text, 1) : text;
      this.#url.query = text === "" ? null : encode(query, isSpecial(this.#url) ? SPECIAL_QUERY : QUERY);
      refresh(this.#params, query);
    }
    get searchParams() { return this.#params; }
    get hash() { return this.#url.fragment === null || this.#url.fragment === "" ? "" : "#" + this.#url.fragment; }
    set hash(given) {
      const text = usv(given);
      this.#url.fragment = text === "" ? null : encode(text[0] === "#" ? P.slice(text, 1) : text, FRAGMENT);
    }
    toString() { return hrefOf(this.#url); }
    toJSON() { return hrefOf(this.#url); }
  }

  shared.publish("URLSearchParams", URLSearchParams, ["append", "delete", "get", "getAll", "has", "set", "sort", "forEach",
    "entries", "keys", "values", "toString", "size"]);
  shared.publish("URL", URL, ["href", "origin", "protocol", "username", "password", "host", "hostname", "port", "pathname",
    "search", "searchParams", "hash", "toString", "toJSON"]);
})
