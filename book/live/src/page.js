// The live page: what is chosen, what is shown.

import { pixelsOf, save } from "./files.js";
import { indexPng } from "./png.js";
import { Runner } from "./runner.js";
import { settingsOf, whyNot } from "./settings.js";
import { fromHash, parseWords, TERMS, toHash } from "./state.js";
import { View } from "./view.js";

const root = document.getElementById("live");
const base = new URL("./", import.meta.url).href;
const find = (name) => root.querySelector(`[data-live="${name}"]`);
const state = { classes: [], recipe: "sclip", compare: "", block: null, show: "mask", picture: "" };
const views = [...root.querySelectorAll("figure")].map((figure) => new View(figure));
let site, runner, about, picture;
let recipes = [];
let looked = null; // {row, column} under the pointer
let turn = 0;

function say(text, bad = false) {
  const status = find("status");
  status.textContent = text;
  status.classList.toggle("live-bad", bad);
}

const colours = () => state.classes.map((_, index) => site.colours[index % site.colours.length]);
const busy = (on) => root.setAttribute("aria-busy", String(on));

/** Runs a task of the page; what goes wrong is said in plain words. */
async function attempt(task) {
  busy(true);
  try {
    return await task();
  } catch (error) {
    say(error.message, true);
  } finally {
    busy(false);
  }
}

// -- loading ------------------------------------------------------------------------------------------

async function load() {
  find("load").disabled = true;
  const bar = find("progress");
  bar.hidden = false;
  runner = new Runner(new URL("worker.js", base));
  const total = site.megabytes * 1e6;
  const progress = (bytes) => {
    bar.value = Math.min(bytes / total, 1);
    say(`Loading: ${(bytes / 1e6).toFixed(1)} of ${site.megabytes} MB`);
  };
  about = await runner.ask("loadShipped", { base, files: site.files }, progress);
  recipes = site.recipes.map(({ name, summary, scenes }) => ({ name, summary, stages: scenes }));
  bar.hidden = true;
  find("start").hidden = true;
  find("tool").hidden = false;
  fillPictures();
  fillRecipes();
  const first = site.pictures.find(({ name }) => name === state.picture) ?? site.pictures[0];
  await choosePicture(first, !state.classes.length);
  runner.ask("prepareWords").catch((error) => say(error.message, true));
}

async function loadFolder(list) {
  const files = {};
  for (const file of list) files[file.name] = file;
  if (!files["recipe.json"]) throw new Error("the folder has no recipe.json: choose one that “ovss export onnx” wrote");
  say("Opening the folder …");
  // Looked at before the worker lets go of the model it has.
  const { recipe, graph, prompts } = JSON.parse(await files["recipe.json"].text());
  const own = { name: recipe.name, summary: recipe.summary, stages: recipe.stages };
  const wrong = whyNot(own, prompts);
  if (wrong) throw new Error(`${wrong}; export another recipe, such as sclip`);
  const opened = await runner.ask("loadFolder", { base, files });
  about = opened;
  const kind = opened.model.pretrained === "embedded" ? "scenes" : "plain";
  const others = site.recipes
    .map((one) => ({ name: one.name, summary: one.summary, stages: one[kind] }))
    .filter((one) => one.name !== own.name && one.stages.windows.positions === graph.positions);
  recipes = opened.switches ? [own, ...others] : [own];
  Object.assign(state, { recipe: own.name, compare: "", block: null });
  fillRecipes();
  find("model").textContent = `${opened.model.name}, recipe ${own.name}`;
  await run();
}

// -- choices ------------------------------------------------------------------------------------------

function fillPictures() {
  const buttons = site.pictures.map((one) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "live-thumb";
    button.dataset.name = one.name;
    const image = new Image(96, 72);
    image.src = new URL(`pictures/${one.file}`, base).href;
    image.alt = `Scene ${one.name}: ${one.words.join(", ")}`;
    button.append(image);
    button.onclick = () => attempt(() => choosePicture(one, true));
    return button;
  });
  find("pictures").replaceChildren(...buttons);
}

function option(value, text) {
  const made = document.createElement("option");
  [made.value, made.textContent] = [value, text];
  return made;
}

function fillRecipes() {
  const names = recipes.map(({ name }) => name);
  if (!names.includes(state.recipe)) state.recipe = names[0];
  if (!names.includes(state.compare)) state.compare = "";
  const options = () => names.map((name) => option(name, name));
  find("recipe").replaceChildren(...options());
  find("compare").replaceChildren(option("", "nothing"), ...options());
  find("recipe").value = state.recipe;
  find("compare").value = state.compare;
  find("switches").disabled = !about.switches;
  showBlock();
}

async function choosePicture(one, withWords) {
  const file = await (await fetch(new URL(`pictures/${one.file}`, base))).blob();
  if (withWords) state.classes = one.words.map((word) => [word]);
  state.picture = one.name;
  await takePicture(file, one.name);
}

async function takePicture(file, key) {
  const made = await pixelsOf(file).catch(() => {
    throw new Error(`${file.name ?? key} cannot be read as a picture: use a JPEG, PNG or WebP file`);
  });
  if (Math.min(made.height, made.width) < 16) throw new Error(`${file.name} is smaller than 16 pixels: use a larger picture`);
  picture = made;
  looked = null;
  for (const button of find("pictures").children) {
    button.setAttribute("aria-pressed", String(button.dataset.name === key));
  }
  await runner.ask("picture", { ...made, key });
  await run();
}

async function ownPicture(file) {
  state.picture = "";
  await takePicture(file, `${file.name} ${file.size} ${file.lastModified}`);
}

function fillWords() {
  const chips = state.classes.map((synonyms, index) => {
    const chip = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "live-swatch";
    swatch.style.background = `rgb(${colours()[index]})`;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${synonyms.join(" | ")}`);
    remove.onclick = () => {
      state.classes.splice(index, 1);
      const next = find("words").querySelectorAll("button")[Math.min(index, state.classes.length - 1)];
      (next ?? find("word")).focus();
      attempt(run).then(() => (find("words").querySelectorAll("button")[index] ?? find("word")).focus());
    };
    chip.append(swatch, synonyms.join(" | "), remove);
    return chip;
  });
  find("words").replaceChildren(...chips);
}

function addWords() {
  const field = find("word");
  const known = new Set(state.classes.map((synonyms) => synonyms[0].toLowerCase()));
  const added = parseWords(field.value).filter(([name]) => !known.has(name.toLowerCase()));
  field.value = "";
  if (!added.length) return say("Type a word that is not in the list yet.", true);
  const before = [...state.classes];
  state.classes.push(...added);
  return attempt(() =>
    run().catch((error) => {
      state.classes = before; // a word that cannot be used does not stay
      fillWords();
      throw error;
    }),
  );
}

const recipeNamed = (name) => recipes.find((one) => one.name === name);
const ownBlock = () => state.block ?? settingsOf(recipeNamed(state.recipe)).block;

function showBlock() {
  const block = ownBlock();
  find("summary").textContent = `${state.recipe}: ${recipeNamed(state.recipe).summary}.`;
  for (const box of find("switches").querySelectorAll("[data-term]")) box.checked = block.terms.includes(box.dataset.term);
  find("residual").checked = block.residual;
  find("feed").checked = block.feedForward;
  find("gaussian").checked = block.gaussian > 0;
  find("std").value = block.gaussian || 5;
  find("std").disabled = !block.gaussian;
}

function changeBlock() {
  const terms = TERMS.filter((term) => find("switches").querySelector(`[data-term="${term}"]`).checked);
  if (!terms.length) {
    showBlock();
    return say("Keep at least one attention term.", true);
  }
  state.block = {
    terms,
    gaussian: find("gaussian").checked ? Number(find("std").value) : 0,
    residual: find("residual").checked,
    feedForward: find("feed").checked,
  };
  showBlock();
  return attempt(run);
}

// -- segmenting ---------------------------------------------------------------------------------------

function settingsFor(view) {
  const recipe = recipeNamed(view === 0 ? state.recipe : state.compare);
  const settings = { ...settingsOf(recipe), prompts: about.prompts };
  if (view === 0 && state.block) settings.block = state.block;
  return settings;
}

async function run() {
  const mine = ++turn;
  fillWords();
  history.replaceState(null, "", toHash(state));
  find("second").hidden = !state.compare;
  if (!state.classes.length) {
    for (const view of views) view.clear();
    draw();
    return say("Add a word to segment the picture.");
  }
  say("Segmenting …");
  const started = performance.now();
  const shown = state.compare ? [0, 1] : [0];
  const unknown = new Set();
  for (const index of shown) {
    const result = await runner.ask("segment", { classes: state.classes, settings: settingsFor(index) });
    if (mine !== turn) return;
    result.unknown.forEach((word) => unknown.add(word));
    const view = views[index];
    view.result = result;
    const changed = index === 0 && state.block ? ", last block changed" : "";
    view.setTitle(`${index === 0 ? state.recipe : state.compare}${changed}`);
    view.list(state.classes, colours());
  }
  const spent = performance.now() - started;
  root.dataset.milliseconds = spent.toFixed(0);
  root.dataset.done = String(mine);
  const named = [...unknown].map((word) => `“${word}”`).join(", ");
  const warning = named ? ` This model was never trained on ${named}: expect nothing of it.` : "";
  say(`Segmented in ${(spent / 1000).toFixed(2)} s.${warning}`);
  draw();
  await look();
}

function draw(attention = []) {
  if (!picture) return;
  const opacity = Number(find("opacity").value);
  const word = Math.min(Number(find("which").value), Math.max(state.classes.length - 1, 0));
  views.forEach((view, index) => {
    if (index && !state.compare) return;
    const { result } = view;
    if (!result) return view.draw(picture, null, 0);
    const seen = attention[index];
    if (state.show === "attention" && seen) {
      const [h, w] = [seen.box.height / seen.cells[0], seen.box.width / seen.cells[1]];
      const mark = { top: seen.box.top + seen.patch[0] * h, left: seen.box.left + seen.patch[1] * w, height: h, width: w };
      return view.draw(picture, view.attentionColours(seen, picture.width), opacity, mark);
    }
    const over = state.show === "similarity" ? view.heatColours(result.similarity[word]) : view.maskColours(colours());
    const mark = looked && { top: looked.row - 4, left: looked.column - 4, height: 8, width: 8 };
    return view.draw(picture, over, opacity, mark);
  });
  const options = state.classes.map(([name], index) => option(index, name));
  find("which").replaceChildren(...options);
  find("which").value = String(word);
  find("which").disabled = state.show !== "similarity";
}

let looking = false;
let again = false;

/** What lies under the pointer: similarity to every word, and the attention of the patch. */
async function look() {
  if (!looked || !views[0].result) return;
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
  const { row, column } = looked;
  const seen = [];
  if (state.show === "attention") {
    for (const index of state.compare ? [0, 1] : [0]) {
      seen[index] = await runner.ask("attention", { settings: settingsFor(index), row, column });
    }
    if (!seen[0]) say("This folder was exported without --switches, so its attention cannot be shown.", true);
  }
  const at = row * picture.width + column;
  const { result } = views[0];
  const parts = state.classes.map(([name], index) => [result.similarity[index][at], name]);
  parts.sort((a, b) => b[0] - a[0]);
  const listed = parts.slice(0, 6).map(([value, name]) => `${name} ${value.toFixed(3)}`).join(", ");
  const label = state.classes[result.labels[at]][0];
  find("here").textContent = `Row ${row}, column ${column}: ${label}, score ${result.scores[at].toFixed(2)}. Similarity: ${listed}.`;
  draw(seen);
}

function pointAt(event) {
  if (!picture) return;
  const box = event.target.getBoundingClientRect();
  const inside = (value, side) => Math.min(Math.max(Math.floor(value), 0), side - 1);
  looked = {
    row: inside(((event.clientY - box.top) / box.height) * picture.height, picture.height),
    column: inside(((event.clientX - box.left) / box.width) * picture.width, picture.width),
  };
  attempt(look);
}

function stepAt(event) {
  const step = { ArrowUp: [-8, 0], ArrowDown: [8, 0], ArrowLeft: [0, -8], ArrowRight: [0, 8] }[event.key];
  if (!step || !picture) return;
  event.preventDefault();
  const now = looked ?? { row: Math.floor(picture.height / 2), column: Math.floor(picture.width / 2) };
  const within = (value, side) => Math.min(Math.max(value, 0), side - 1);
  looked = { row: within(now.row + step[0], picture.height), column: within(now.column + step[1], picture.width) };
  attempt(look);
}

// -- taking it away -----------------------------------------------------------------------------------

async function saveMask() {
  const { result } = views[0];
  if (!result) throw new Error("There is no mask yet: add a word.");
  save(await indexPng(result.labels, result.height, result.width, colours()), `${state.recipe}-mask.png`);
}

function saveOverlay() {
  views[0].canvas.toBlob((blob) => save(blob, `${state.recipe}-overlay.png`), "image/png");
}

async function copyLink() {
  const kept = state.picture ? "" : " Your own picture is not part of it.";
  try {
    await navigator.clipboard.writeText(location.href);
    say(`The link is copied.${kept}`);
  } catch {
    say(`Copy the address of this page.${kept}`);
  }
}

// -- start --------------------------------------------------------------------------------------------

function connect() {
  find("load").onclick = () => attempt(load);
  find("add").onsubmit = (event) => {
    event.preventDefault();
    addWords();
  };
  find("recipe").onchange = (event) => {
    Object.assign(state, { recipe: event.target.value, block: null });
    showBlock();
    attempt(run);
  };
  find("compare").onchange = (event) => {
    state.compare = event.target.value;
    attempt(run);
  };
  find("switches").onchange = changeBlock;
  find("opacity").oninput = () => attempt(async () => (draw(), look()));
  find("which").onchange = () => draw();
  for (const radio of root.querySelectorAll("[name=live-show]")) {
    radio.checked = radio.value === state.show;
    radio.onchange = () => {
      state.show = radio.value;
      history.replaceState(null, "", toHash(state));
      draw();
      attempt(look);
    };
  }
  find("own").onchange = ({ target }) => target.files[0] && attempt(() => ownPicture(target.files[0]));
  find("folder").onchange = ({ target }) => target.files.length && attempt(() => loadFolder(target.files));
  find("mask").onclick = () => attempt(saveMask);
  find("overlay").onclick = saveOverlay;
  find("link").onclick = copyLink;
  const drop = find("drop");
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("live-over", kind === "dragenter" || kind === "dragover");
    });
  }
  drop.addEventListener("drop", ({ dataTransfer }) => {
    const file = [...dataTransfer.files].find(({ type }) => type.startsWith("image/"));
    if (file) attempt(() => ownPicture(file));
    else say("Drop a picture: a JPEG, PNG or WebP file.", true);
  });
  for (const { canvas } of views) {
    canvas.addEventListener("pointermove", pointAt);
    canvas.addEventListener("pointerdown", pointAt);
    canvas.addEventListener("keydown", stepAt);
  }
}

/** Takes over a state that a link on this page names. */
async function follow() {
  const wanted = fromHash(location.hash);
  if (!site || !wanted.recipe) return;
  Object.assign(state, { compare: "", block: null, show: "mask", ...wanted });
  for (const radio of root.querySelectorAll("[name=live-show]")) radio.checked = radio.value === state.show;
  if (find("tool").hidden) return say("Load the model to see it.");
  fillRecipes();
  const named = site.pictures.find(({ name }) => name === state.picture);
  root.scrollIntoView();
  await (named ? choosePicture(named, false) : run());
}

function missing() {
  if (location.protocol === "file:") return "Browsers run this from a server only: python -m http.server, in the folder of the book.";
  const has = ["WebAssembly", "Worker", "DecompressionStream", "OffscreenCanvas"].filter((name) => !(name in window));
  return has.length ? `This browser has no ${has.join(", ")}, which the page needs: use a current one.` : null;
}

const wrong = missing();
if (wrong) say(wrong, true);
else {
  Object.assign(state, fromHash(location.hash));
  connect();
  addEventListener("hashchange", () => attempt(follow));
  await attempt(async () => {
    const answer = await fetch(new URL("live.json", base));
    if (!answer.ok) throw new Error("The files of this page are not beside it: build the book with make book.");
    site = await answer.json();
    find("load").textContent = `Load the model (${site.megabytes} MB)`;
    find("load").disabled = false;
  });
}
