// What the parts of the live page share: its elements, what is chosen, what is loaded.

import { settingsOf } from "./settings.js";
import { View } from "./view.js";

export const root = document.getElementById("live");
export const base = new URL("./", import.meta.url).href;
export const find = (name) => root.querySelector(`[data-live="${name}"]`);
export const state = { classes: [], recipe: "sclip", compare: "", block: null, show: "mask", picture: "" };
export const views = [...root.querySelectorAll("figure")].map((figure) => new View(figure));

/** What is loaded and shown. looked: {row, column} under the pointer, or null. */
export const page = { site: null, runner: null, about: null, picture: null, recipes: [], looked: null };

export function say(text, bad = false) {
  const status = find("status");
  status.textContent = text;
  status.classList.toggle("live-bad", bad);
}

export const colours = () => state.classes.map((_, index) => page.site.colours[index % page.site.colours.length]);
const busy = (on) => root.setAttribute("aria-busy", String(on));

/** Runs a task of the page; what goes wrong is said in plain words. */
export async function attempt(task) {
  busy(true);
  try {
    return await task();
  } catch (error) {
    say(error.message, true);
  } finally {
    busy(false);
  }
}

export function option(value, text) {
  const element = document.createElement("option");
  [element.value, element.textContent] = [value, text];
  return element;
}

export const recipeNamed = (name) => page.recipes.find((one) => one.name === name);

/** What the worker is told of the recipe of a view: the first, or the one that it is compared with. */
export function settingsFor(view) {
  const recipe = recipeNamed(view === 0 ? state.recipe : state.compare);
  const settings = { ...settingsOf(recipe), prompts: page.about.prompts };
  if (view === 0 && state.block) settings.block = state.block;
  return settings;
}
