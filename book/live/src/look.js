// What lies over the pictures, and what is said of the place under the pointer.

import { attempt, colours, find, option, page, say, settingsFor, state, views } from "./shared.js";

export function draw(attention = []) {
  if (!page.picture) return;
  const opacity = Number(find("opacity").value);
  const word = Math.min(Number(find("which").value), Math.max(state.classes.length - 1, 0));
  views.forEach((view, index) => {
    if (index && !state.compare) return;
    const { result } = view;
    if (!result) return view.draw(page.picture, null, 0);
    const seen = attention[index];
    if (state.show === "attention" && seen) {
      const [h, w] = [seen.box.height / seen.cells[0], seen.box.width / seen.cells[1]];
      const mark = { top: seen.box.top + seen.patch[0] * h, left: seen.box.left + seen.patch[1] * w, height: h, width: w };
      return view.draw(page.picture, view.attentionColours(seen, page.picture.width), opacity, mark);
    }
    const over = state.show === "similarity" ? view.heatColours(result.similarity[word]) : view.maskColours(colours());
    const mark = page.looked && { top: page.looked.row - 4, left: page.looked.column - 4, height: 8, width: 8 };
    return view.draw(page.picture, over, opacity, mark);
  });
  const options = state.classes.map(([name], index) => option(index, name));
  find("which").replaceChildren(...options);
  find("which").value = String(word);
  find("which").disabled = state.show !== "similarity";
}

let looking = false;
let again = false;

/** What lies under the pointer: similarity to every word, and the attention of the patch. */
export async function look() {
  if (!page.looked || !views[0].result) return;
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  try {
    await lookOnce();
  } finally {
    looking = false;
  }
  if (again) {
    again = false;
    await look();
  }
}

async function lookOnce() {
  const { row, column } = page.looked;
  const seen = [];
  if (state.show === "attention") {
    for (const index of state.compare ? [0, 1] : [0]) {
      seen[index] = await page.runner.ask("attention", { settings: settingsFor(index), row, column });
    }
    if (!seen[0]) say("This folder was exported without --switches, so its attention cannot be shown.", true);
  }
  const at = row * page.picture.width + column;
  const { result } = views[0];
  const parts = state.classes.map(([name], index) => [result.similarity[index][at], name]);
  parts.sort((a, b) => b[0] - a[0]);
  const listed = parts.slice(0, 6).map(([value, name]) => `${name} ${value.toFixed(3)}`).join(", ");
  const label = state.classes[result.labels[at]][0];
  find("here").textContent = `Row ${row}, column ${column}: ${label}, score ${result.scores[at].toFixed(2)}. Similarity: ${listed}.`;
  draw(seen);
}

export function pointAt(event) {
  if (!page.picture) return;
  const box = event.target.getBoundingClientRect();
  const inside = (value, side) => Math.min(Math.max(Math.floor(value), 0), side - 1);
  page.looked = {
    row: inside(((event.clientY - box.top) / box.height) * page.picture.height, page.picture.height),
    column: inside(((event.clientX - box.left) / box.width) * page.picture.width, page.picture.width),
  };
  attempt(look);
}

export function stepAt(event) {
  const step = { ArrowUp: [-8, 0], ArrowDown: [8, 0], ArrowLeft: [0, -8], ArrowRight: [0, 8] }[event.key];
  if (!step || !page.picture) return;
  event.preventDefault();
  const now = page.looked ?? { row: Math.floor(page.picture.height / 2), column: Math.floor(page.picture.width / 2) };
  const within = (value, side) => Math.min(Math.max(value, 0), side - 1);
  page.looked = { row: within(now.row + step[0], page.picture.height), column: within(now.column + step[1], page.picture.width) };
  attempt(look);
}
