// The live page: what is chosen, what is shown.

import { pixelsOf, save } from "./files.js";
import { draw, look, pointAt, stepAt } from "./look.js";
import { indexPng } from "./png.js";
import { Runner } from "./runner.js";
import { settingsOf, whyNot } from "./settings.js";
import {
  attempt, base, colours, find, option, page, recipeNamed, root, say, settingsFor, state, views,
} from "./shared.js";
import { fromHash, parseWords, TERMS, toHash } from "./state.js";

// -- loading ------------------------------------------------------------------------------------------

async function load() {
  find("load").disabled = true;
  const bar = find("progress");
  bar.hidden = false;
  page.runner = new Runner(new URL("worker.js", base));
  const total = page.site.megabytes * 1e6;
  const progress = (bytes) => {
    bar.value = Math.min(bytes / total, 1);
    say(`Loading: ${(bytes / 1e6).toFixed(1)} of ${page.site.megabytes} MB`);
  };
  page.about = await page.runner.ask("loadShipped", { base, files: page.site.files }, progress);
  page.recipes = page.site.recipes.map(({ name, summary, scenes }) => ({ name, summary, stages: scenes }));
  bar.hidden = true;
  find("start").hidden = true;
  find("tool").hidden = false;
  fillPictures();
  fillRecipes();
  const first = page.site.pictures.find(({ name }) => name === state.picture) ?? page.site.pictures[0];
  await choosePicture(first, !state.classes.length);
  page.runner.ask("prepareWords").catch((error) => say(error.message, true));
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
  const opened = await page.runner.ask("loadFolder", { base, files });
  page.about = opened;
  const kind = opened.model.pretrained === "embedded" ? "scenes" : "plain";
  const others = page.site.recipes
    .map((one) => ({ name: one.name, summary: one.summary, stages: one[kind] }))
    .filter((one) => one.name !== own.name && one.stages.windows.positions === graph.positions);
  page.recipes = opened.switches ? [own, ...others] : [own];
  Object.assign(state, { recipe: own.name, compare: "", block: null });
  fillRecipes();
  find("model").textContent = `${opened.model.name}, recipe ${own.name}`;
  await run();
}

// -- choices ------------------------------------------------------------------------------------------

function fillPictures() {
  const buttons = page.site.pictures.map((one) => {
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

function fillRecipes() {
  const names = page.recipes.map(({ name }) => name);
  if (!names.includes(state.recipe)) state.recipe = names[0];
  if (!names.includes(state.compare)) state.compare = "";
  const options = () => names.map((name) => option(name, name));
  find("recipe").replaceChildren(...options());
  find("compare").replaceChildren(option("", "nothing"), ...options());
  find("recipe").value = state.recipe;
  find("compare").value = state.compare;
  find("switches").disabled = !page.about.switches;
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
  page.picture = made;
  page.looked = null;
  for (const button of find("pictures").children) {
    button.setAttribute("aria-pressed", String(button.dataset.name === key));
  }
  await page.runner.ask("picture", { ...made, key });
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

let turn = 0;

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
    const result = await page.runner.ask("segment", { classes: state.classes, settings: settingsFor(index) });
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
  if (!page.site || !wanted.recipe) return;
  Object.assign(state, { compare: "", block: null, show: "mask", ...wanted });
  for (const radio of root.querySelectorAll("[name=live-show]")) radio.checked = radio.value === state.show;
  if (find("tool").hidden) return say("Load the model to see it.");
  fillRecipes();
  const named = page.site.pictures.find(({ name }) => name === state.picture);
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
    page.site = await answer.json();
    find("load").textContent = `Load the model (${page.site.megabytes} MB)`;
    find("load").disabled = false;
  });
}
