// CLIP's byte-pair tokenizer, from the merges alone.

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;

/** Characters that stand for the 256 bytes: printable ones for themselves, the others from 256 on. */
function byteCharacters() {
  const printable = (byte) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  const order = [];
  for (let byte = 0; byte < 256; byte++) if (printable(byte)) order.push([byte, byte]);
  let next = 256;
  for (let byte = 0; byte < 256; byte++) if (!printable(byte)) order.push([byte, next++]);
  return order.map(([byte, code]) => [byte, String.fromCharCode(code)]);
}

/** What the original does to a text before it is split: characters composed, wide and curly ones made plain. */
export function clean(text) {
  return text
    .normalize("NFC")
    .replace(/[\uFF01-\uFF5E]/g, (c) => String.fromCharCode(c.charCodeAt(0) - 0xfee0))
    .replace(/[\u2018\u2019\u201B\u02BC]/g, "'")
    .replace(/[\u201C\u201D\u201F]/g, '"')
    .replace(/\s+/gu, " ")
    .trim()
    .toLowerCase();
}

export class Tokenizer {
  /** @param {string} merges content of merges.txt: a head line, then one merge a line, in order. */
  constructor(merges) {
    const pairs = merges.split("\n").slice(1).filter(Boolean);
    const bytes = byteCharacters();
    this.byteTo = new Map(bytes);
    const pieces = bytes.map(([, character]) => character);
    const all = [...pieces, ...pieces.map((piece) => `${piece}</w>`)];
    for (const pair of pairs) all.push(pair.replace(" ", ""));
    all.push(START, END);
    this.numbers = new Map(all.map((piece, index) => [piece, index]));
    this.ranks = new Map(pairs.map((pair, index) => [pair, index]));
    this.start = this.numbers.get(START);
    this.end = this.numbers.get(END);
    this.kept = new Map();
  }

  /** Tokens of a word given as byte characters, the most frequent pair merged first. */
  merge(word) {
    if (this.kept.has(word)) return this.kept.get(word);
    let parts = [...word];
    parts[parts.length - 1] += "</w>";
    while (parts.length > 1) {
      let best = -1;
      let rank = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) {
        const found = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
        if (found !== undefined && found < rank) [rank, best] = [found, i];
      }
      if (best < 0) break;
      const [left, right] = [parts[best], parts[best + 1]];
      const merged = [];
      for (let i = 0; i < parts.length; i++) {
        if (parts[i] === left && parts[i + 1] === right) {
          merged.push(left + right);
          i++;
        } else merged.push(parts[i]);
      }
      parts = merged;
    }
    const numbers = parts.map((part) => this.numbers.get(part));
    this.kept.set(word, numbers);
    return numbers;
  }

  /** Token numbers of a text with start and end. Throws for one that is longer than `limit`. */
  encode(text, limit = 77) {
    const numbers = [this.start];
    const encoder = new TextEncoder();
    for (const [piece] of clean(text).matchAll(PIECES)) {
      const bytes = [...encoder.encode(piece)];
      numbers.push(...this.merge(bytes.map((byte) => this.byteTo.get(byte)).join("")));
    }
    numbers.push(this.end);
    if (numbers.length > limit) {
      throw new Error(`“${text}” has ${numbers.length} tokens, the model takes ${limit}: shorten it`);
    }
    return numbers;
  }
}
