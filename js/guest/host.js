// The host of a URL: domains, IPv4 and IPv6 addresses, as the URL standard reads and writes them.
(function (native, shared) {
  "use strict";
  const P = shared.primordials;
  const FAILED = undefined;

  const isDigit = (code) => code >= 48 && code <= 57;
  const isHex = (code) => isDigit(code) || (code >= 65 && code <= 70) || (code >= 97 && code <= 102);

  // Bytes of a text, percent-encoded ones decoded.
  const percentDecode = (text) => {
    const bytes = native.encode(P.toWellFormed(text));
    const length = P.typedArrayLength(bytes);
    let to = 0;
    for (let at = 0; at < length; at++, to++) {
      if (bytes[at] === 37 && at + 2 < length && isHex(bytes[at + 1]) && isHex(bytes[at + 2])) {
        bytes[to] = P.parseInt(P.fromCharCode(bytes[at + 1], bytes[at + 2]), 16);
        at += 2;
      } else bytes[to] = bytes[at];
    }
    return P.subarray(bytes, 0, to);
  };

  // RFC 3492.
  const adapted = (delta, points, first) => {
    let by = first ? P.floor(delta / 700) : delta >> 1;
    by += P.floor(by / points);
    let k = 0;
    for (; by > 455; k += 36) by = P.floor(by / 35);
    return k + P.floor((36 * by) / (by + 38));
  };
  const punycode = (label) => {
    const points = [];
    let out = "";
    for (let at = 0; at < label.length; at++) {
      const point = P.codePointAt(label, at);
      P.push(points, point);
      if (point > 0xffff) at++;
      if (point < 128) out += P.fromCharCode(point);
    }
    const basic = out.length;
    if (basic > 0) out += "-";
    let n = 128;
    let delta = 0;
    let bias = 72;
    for (let handled = basic; handled < points.length; n++, delta++) {
      let next = 0x110000;
      for (let at = 0; at < points.length; at++) if (points[at] >= n && points[at] < next) next = points[at];
      delta += (next - n) * (handled + 1);
      n = next;
      for (let at = 0; at < points.length; at++) {
        if (points[at] < n) delta++;
        if (points[at] !== n) continue;
        let q = delta;
        for (let k = 36; ; k += 36) {
          const t = k <= bias ? 1 : k >= bias + 26 ? 26 : k - bias;
          if (q < t) break;
          const digit = t + ((q - t) % (36 - t));
          out += P.fromCharCode(digit < 26 ? digit + 97 : digit + 22);
          q = P.floor((q - t) / (36 - t));
        }
        out += P.fromCharCode(q < 26 ? q + 97 : q + 22);
        bias = adapted(delta, handled + 1, handled === basic);
        delta = 0;
        handled++;
      }
    }
    return out;
  };

  const isAscii = (text) => {
    for (let at = 0; at < text.length; at++) if (P.charCodeAt(text, at) > 127) return false;
    return true;
  };

  // Compatibility forms folded, letters small, labels in ASCII.
  const domainToAscii = (domain) => {
    if (isAscii(domain)) return P.toLowerCase(domain);
    const folded = P.normalize(P.toLowerCase(P.normalize(domain, "NFKC")), "NFC");
    const labels = [""];
    for (let at = 0; at < folded.length; at++) {
      const c = folded[at];
      if (c === "." || c === "\u3002" || c === "\uff0e" || c === "\uff61") P.push(labels, "");
      else if (c !== "\u00ad" && c !== "\u200b" && c !== "\u2060") labels[labels.length - 1] += c;
    }
    for (let at = 0; at < labels.length; at++) if (!isAscii(labels[at])) labels[at] = `xn--${punycode(labels[at])}`;
    return P.join(labels, ".");
  };

  const FORBIDDEN_IN_HOST = "\0\t\n\r #/:<>?@[\\]^|";
  const forbidden = (text, domain) => {
    for (let at = 0; at < text.length; at++) {
      const code = P.charCodeAt(text, at);
      if (P.indexOf(FORBIDDEN_IN_HOST, text[at]) >= 0) return true;
      if (domain && (code < 32 || code === 127 || code === 37)) return true;
    }
    return false;
  };

  // A part of an IPv4 address: decimal, 0octal or 0xhex.
  const ipv4Number = (text) => {
    let radix = 10;
    if (P.startsWith(text, "0x") || P.startsWith(text, "0X")) {
      radix = 16;
      text = P.slice(text, 2);
    } else if (text.length > 1 && text[0] === "0") {
      radix = 8;
      text = P.slice(text, 1);
    }
    if (text === "") return 0;
    let number = 0;
    for (let at = 0; at < text.length; at++) {
      const digit = P.parseInt(text[at], radix);
      if (digit !== digit) return FAILED;
      number = number * radix + digit;
    }
    return number;
  };
  const endsInNumber = (host) => {
    const parts = P.split(host, ".");
    if (parts[parts.length - 1] === "") {
      if (parts.length === 1) return false;
      P.pop(parts);
    }
    const last = parts[parts.length - 1];
    let digits = last !== "";
    for (let at = 0; at < last.length; at++) digits &&= isDigit(P.charCodeAt(last, at));
    return digits || ((P.startsWith(last, "0x") || P.startsWith(last, "0X")) && ipv4Number(last) !== FAILED);
  };
  const ipv4 = (host) => {
    const parts = P.split(host, ".");
    if (parts[parts.length - 1] === "" && parts.length > 1) P.pop(parts);
    if (parts.length > 4) return FAILED;
    let address = 0;
    for (let at = 0; at < parts.length; at++) {
      const number = parts[at] === "" ? FAILED : ipv4Number(parts[at]);
      const last = at === parts.length - 1;
      if (number === FAILED || number >= (last ? 256 ** (5 - parts.length) : 256)) return FAILED;
      address += last ? number : number * 256 ** (3 - at);
    }
    return `${P.floor(address / 16777216)}.${P.floor(address / 65536) % 256}.${P.floor(address / 256) % 256}.${address % 256}`;
  };

  // The two last pieces of an IPv6 address, written as an IPv4 address.
  const embedded = (text) => {
    const parts = P.split(text, ".");
    if (parts.length !== 4) return FAILED;
    const bytes = [];
    for (let at = 0; at < 4; at++) {
      const part = parts[at];
      if (part === "" || part.length > 3 || (part.length > 1 && part[0] === "0")) return FAILED;
      for (let digit = 0; digit < part.length; digit++) if (!isDigit(P.charCodeAt(part, digit))) return FAILED;
      const byte = P.Number(part);
      if (byte > 255) return FAILED;
      P.push(bytes, byte);
    }
    return [bytes[0] * 256 + bytes[1], bytes[2] * 256 + bytes[3]];
  };
  const ipv6Pieces = (text) => {
    const pieces = [];
    if (text === "") return pieces;
    const parts = P.split(text, ":");
    for (let at = 0; at < parts.length; at++) {
      const part = parts[at];
      if (at === parts.length - 1 && P.indexOf(part, ".") >= 0) {
        const two = embedded(part);
        if (two === FAILED) return FAILED;
        P.push(pieces, two[0], two[1]);
        continue;
      }
      if (part === "" || part.length > 4) return FAILED;
      for (let digit = 0; digit < part.length; digit++) if (!isHex(P.charCodeAt(part, digit))) return FAILED;
      P.push(pieces, P.parseInt(part, 16));
    }
    return pieces;
  };
  const ipv6Text = (pieces) => {
    let longest = 1;
    let from = -1;
    for (let at = 0; at < 8; at++) {
      let length = 0;
      while (at + length < 8 && pieces[at + length] === 0) length++;
      if (length > longest) {
        longest = length;
        from = at;
      }
      if (length > 0) at += length - 1;
    }
    let text = "[";
    for (let at = 0; at < 8; at++) {
      if (at === from) {
        text += at === 0 ? "::" : ":";
        at += longest - 1;
        continue;
      }
      text += P.numberToString(pieces[at], 16) + (at < 7 ? ":" : "");
    }
    return text + "]";
  };
  const ipv6 = (text) => {
    const gap = P.indexOf(text, "::");
    if (gap < 0) {
      const pieces = ipv6Pieces(text);
      return pieces === FAILED || pieces.length !== 8 ? FAILED : ipv6Text(pieces);
    }
    const head = P.slice(text, 0, gap);
    const before = P.indexOf(head, ".") >= 0 ? FAILED : ipv6Pieces(head);
    const after = ipv6Pieces(P.slice(text, gap + 2));
    if (before === FAILED || after === FAILED || before.length + after.length > 7) return FAILED;
    while (before.length + after.length < 8) P.push(before, 0);
    for (let at = 0; at < after.length; at++) P.push(before, after[at]);
    return ipv6Text(before);
  };

  shared.percentDecode = percentDecode;
  // The host as a URL writes it; undefined if it is none.
  shared.parseHost = (text, special, encode) => {
    if (text[0] === "[") return P.endsWith(text, "]") ? ipv6(P.slice(text, 1, -1)) : FAILED;
    if (!special) return forbidden(text, false) ? FAILED : encode(text);
    const domain = domainToAscii(native.decode(percentDecode(text), false));
    if (domain === "" || forbidden(domain, true)) return FAILED;
    return endsInNumber(domain) ? ipv4(domain) : domain;
  };
})
