// What is chosen on the page, as the part of the address behind "#", and back.

export const TERMS = ["qk", "qq", "kk", "vv", "value"];

/** Words as typed: classes separated by comma or semicolon, synonyms by "|". A list of lists. */
export function parseWords(text) {
  return text
    .split(/[,;\n]/)
    .map((part) => part.split("|").map((word) => word.replace(/\s+/gu, " ").trim()).filter(Boolean))
    .filter((synonyms) => synonyms.length);
}

/** A last block in short: "qq+kk", "kk*5" with the Gaussian's deviation; "-r" and "-f" where parts are dropped. */
export function blockText(block) {
  const gaussian = block.gaussian ? `*${block.gaussian}` : "";
  return block.terms.join("+") + gaussian + (block.residual ? "" : "-r") + (block.feedForward ? "" : "-f");
}

/** The reverse of blockText; null for a text that is none. */
export function parseBlock(text) {
  const found = /^([a-z+]+)(?:\*(\d+(?:\.\d+)?))?(-r)?(-f)?$/.exec(text);
  const terms = found?.[1].split("+");
  if (!terms?.every((term) => TERMS.includes(term))) return null;
  return { terms, gaussian: Number(found[2] ?? 0), residual: !found[3], feedForward: !found[4] };
}

export function toHash({ picture, classes, recipe, compare, block, show }) {
  const parts = new URLSearchParams();
  if (picture) parts.set("picture", picture);
  parts.set("words", classes.map((synonyms) => synonyms.join("|")).join(", "));
  parts.set("recipe", recipe);
  if (block) parts.set("block", blockText(block));
  if (compare) parts.set("compare", compare);
  if (show && show !== "mask") parts.set("show", show);
  return `#${parts}`;
}

export function fromHash(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  const state = {};
  for (const name of ["picture", "recipe", "compare", "show"]) {
    if (parts.get(name)) state[name] = parts.get(name);
  }
  if (parts.get("words")) state.classes = parseWords(parts.get("words"));
  if (parts.get("block")) state.block = parseBlock(parts.get("block"));
  return state;
}
