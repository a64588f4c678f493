// Runs the model apart from the page, so that the page stays responsive.

import * as ort from "onnxruntime-web/wasm";
import {
  cosines, cut, labelled, normalised, pamr, pamrWeights, resizePicture, scaledSize, stitched, windowsOf,
} from "./flow.js";
import { Tokenizer } from "./tokenizer.js";

const SWITCHES = ["qk", "qq", "kk", "vv", "value"];
const KEPT = 6; // encodings of pictures that are kept

let model = null; // {about, vision, text, tokenizer, known}
let runtime = null;
let picture = null; // {data (H, W, 3), height, width, id}
const encodings = new Map();
const words = new Map();

/** Content of a file packed with gzip, with progress in bytes. */
async function fetched(url, progress) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} could not be loaded (${answer.status}); reload the page`);
  const counted = new TransformStream({
    transform(chunk, controller) {
      progress(chunk.byteLength);
      controller.enqueue(chunk);
    },
  });
  let stream = answer.body.pipeThrough(counted);
  if (url.endsWith(".gz")) stream = stream.pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function startRuntime(base, progress) {
  if (runtime) return;
  ort.env.wasm.wasmBinary = await fetched(`${base}runtime.wasm.gz`, progress);
  ort.env.wasm.numThreads = 1; // more threads need headers that a plain static server does not send
  ort.env.logLevel = "error";
  runtime = ort;
}

/** Opens a model from the bytes of its files. */
async function open(files) {
  const decoder = new TextDecoder();
  const about = JSON.parse(decoder.decode(files["recipe.json"]));
  // further rewriting of the graph costs more at the start than it saves later
  const options = { graphOptimizationLevel: "basic" };
  const session = (name) => ort.InferenceSession.create(new Uint8Array(files[name]), options);
  const made = {
    about,
    vision: await session("vision.onnx"),
    openText: () => (made.textSession ??= session("text.onnx")), // when a word needs it, so that the mask comes first
    tokenizer: new Tokenizer(decoder.decode(files["merges.txt"])),
    known: files["known_tokens.json"]
      ? new Set(JSON.parse(decoder.decode(files["known_tokens.json"])))
      : null,
  };
  for (const old of model ? [model.vision, await model.textSession] : []) await old?.release();
  model = made;
  encodings.clear();
  words.clear();
  const ready = files["words.json"] ? JSON.parse(decoder.decode(files["words.json"])) : {};
  for (const [word, feature] of Object.entries(ready)) {
    words.set(JSON.stringify([word, about.prompts]), Float32Array.from(feature));
  }
  return about;
}

async function loadShipped({ base, files }, id) {
  let done = 0;
  const progress = (bytes) => {
    done += bytes;
    postMessage({ id, progress: done });
  };
  const [, ...contents] = await Promise.all([
    startRuntime(base, progress),
    ...files.map((name) => fetched(`${base}model/${name}.gz`, progress)),
  ]);
  return open(Object.fromEntries(files.map((name, index) => [name, contents[index]])));
}

async function loadFolder({ base, files }) {
  await startRuntime(base, () => {});
  const contents = {};
  for (const [name, file] of Object.entries(files)) contents[name] = await file.arrayBuffer();
  for (const name of ["recipe.json", "vision.onnx", "text.onnx", "merges.txt"]) {
    if (!contents[name]) {
      throw new Error(`the folder has no ${name}: choose one that “ovss export onnx” wrote`);
    }
  }
  return open(contents);
}

/** Unit text features (one Float32Array) of a word, averaged over the prompts. */
async function textFeature(word, prompts) {
  const key = JSON.stringify([word, prompts]);
  if (words.has(key)) return words.get(key);
  const limit = model.about.model.context_length;
  const lists = prompts.thing.map((prompt) => model.tokenizer.encode(prompt.replaceAll("{}", word), limit));
  const longest = Math.max(...lists.map((list) => list.length));
  const tokens = new BigInt64Array(lists.length * longest);
  lists.forEach((list, row) => list.forEach((t, i) => (tokens[row * longest + i] = BigInt(t))));
  const text = await model.openText();
  const made = await text.run({ tokens: new ort.Tensor("int64", tokens, [lists.length, longest]) });
  const { data, dims } = made.features;
  const sum = new Float64Array(dims[1]);
  for (let row = 0; row < dims[0]; row++) {
    const values = data.subarray(row * dims[1], (row + 1) * dims[1]);
    const length = prompts.normalise_each ? Math.hypot(...values) : 1;
    values.forEach((value, d) => (sum[d] += value / length));
  }
  const length = Math.hypot(...sum);
  const feature = Float32Array.from(sum, (value) => value / length);
  words.set(key, feature);
  return feature;
}

/** Words that hold a token which the model was never trained on. */
function unknownWords(list) {
  const { known, tokenizer } = model;
  return known ? list.filter((word) => tokenizer.encode(word).slice(1, -1).some((t) => !known.has(t))) : [];
}

/** Features and attention of all windows of the picture under the settings of a last block. */
async function encoded(settings) {
  const { windows, block } = settings;
  const key = JSON.stringify([picture.id, windows, block]);
  if (encodings.has(key)) return encodings.get(key);
  const { about } = model;
  const size = scaledSize(picture.height, picture.width, windows.short_side, windows.long_side);
  const pixels = normalised(resizePicture(picture, size), about.pixels);
  const grid = windowsOf(...size, windows);
  const feeds = {};
  if (about.switches) {
    const tensor = (values) => new ort.Tensor("float32", Float32Array.from(values), [values.length]);
    feeds.terms = tensor(SWITCHES.map((name) => Number(block.terms.includes(name))));
    feeds.gaussian = tensor([Number(block.gaussian > 0), block.gaussian || 1]);
    feeds.residual = tensor([Number(block.residual)]);
    feeds.feed_forward = tensor([Number(block.feedForward)]);
  }
  const maps = [];
  let cells = null;
  for (const top of grid.tops) {
    for (const left of grid.lefts) {
      const window = cut(pixels, ...size, top, left, grid.size);
      feeds.pixels = new ort.Tensor("float32", window, [1, 3, ...grid.size]);
      const made = await model.vision.run(feeds);
      cells = made.features.dims.slice(2);
      maps.push({ features: made.features.data, attention: made.attention?.data ?? null });
    }
  }
  const result = { maps, grid, cells, size };
  if (encodings.size >= KEPT) encodings.delete(encodings.keys().next().value);
  encodings.set(key, result);
  return result;
}

/** Rows of all synonyms, and the class of each. */
async function rowsOf(classes, prompts) {
  const rows = [];
  const classOf = [];
  for (const [index, synonyms] of classes.entries()) {
    for (const word of synonyms) {
      rows.push(await textFeature(word, prompts));
      classOf.push(index);
    }
  }
  return { rows, classOf };
}

async function segment({ classes, settings }) {
  if (!model || !picture) throw new Error("load the model and choose a picture first");
  const unknown = unknownWords(classes.flat());
  const { rows, classOf } = await rowsOf(classes, settings.prompts);
  const { maps, grid, cells, size } = await encoded(settings);
  const wanted = [picture.height, picture.width];
  const found = maps.map((map) => cosines(map.features, cells[0] * cells[1], rows));
  const plain = rows.map((_, q) => stitched(found.map((window) => window[q]), grid, cells, size, wanted));
  let logits = plain;
  if (settings.pamr?.iterations) {
    const { dilations } = settings.pamr;
    const key = dilations.join();
    picture.pamr ??= new Map();
    if (!picture.pamr.has(key)) {
      picture.pamr.set(key, pamrWeights(normalised(picture, model.about.pixels), ...wanted, dilations));
    }
    logits = plain.map((map) => pamr(map, picture.pamr.get(key), ...wanted, settings.pamr));
  }
  const made = labelled(logits, classOf, classes.length, settings.logitScale);
  const similarity = classes.map((_, index) => {
    const mine = plain.filter((_, q) => classOf[q] === index);
    return mine.reduce((a, b) => a.map((value, i) => Math.max(value, b[i])));
  });
  return { ...made, similarity, unknown, height: wanted[0], width: wanted[1] };
}

/** Attention (h * w) of the patch that holds a pixel, in the window whose middle is nearest, and where that lies. */
async function attention({ settings, row, column }) {
  const { maps, grid, cells, size } = await encoded(settings);
  if (!maps[0].attention) return null;
  const at = [(row + 0.5) * (size[0] / picture.height), (column + 0.5) * (size[1] / picture.width)];
  const nearest = (begins, crop, place) => {
    const far = begins.map((begin) => Math.abs(place - begin - crop / 2));
    return far.indexOf(Math.min(...far));
  };
  const [r, c] = [nearest(grid.tops, grid.size[0], at[0]), nearest(grid.lefts, grid.size[1], at[1])];
  const [top, left] = [grid.tops[r], grid.lefts[c]];
  const cell = (place, crop, count) => Math.min(Math.max(Math.floor((place * count) / crop), 0), count - 1);
  const patch = [cell(at[0] - top, grid.size[0], cells[0]), cell(at[1] - left, grid.size[1], cells[1])];
  const tokens = 1 + cells[0] * cells[1];
  const from = (1 + patch[0] * cells[1] + patch[1]) * tokens + 1;
  const map = maps[r * grid.lefts.length + c].attention.slice(from, from + tokens - 1);
  const scale = [picture.height / size[0], picture.width / size[1]];
  const box = { top: top * scale[0], left: left * scale[1], height: grid.size[0] * scale[0], width: grid.size[1] * scale[1] };
  return { map, cells, box, patch };
}

const tasks = {
  loadShipped,
  loadFolder,
  segment,
  attention,
  prepareWords: async () => void (await model.openText()),
  picture({ data, height, width, key }) {
    picture = { data, height, width, id: key };
    return null;
  },
  tokens: ({ texts }) => texts.map((text) => model.tokenizer.encode(text)),
};

let queue = Promise.resolve();
onmessage = ({ data: { id, task, value } }) => {
  queue = queue.then(async () => {
    try {
      postMessage({ id, result: await tasks[task](value, id) });
    } catch (error) {
      postMessage({ id, error: error.message });
    }
  });
};
