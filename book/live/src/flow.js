// From pixels to labels, as ovsslib does it: resize, windows, cosines, stitching, PAMR, argmax.

/** Size (height, width) after the resize of the protocol: short side given, long side capped. */
export function scaledSize(height, width, short, long) {
  const scale = Math.min(
    Math.max(short, long) / Math.max(height, width),
    Math.min(short, long) / Math.min(height, width),
  );
  return [height, width].map((side) => Math.max(Math.trunc(side * scale + 0.5), 1));
}

/** Bilinear resize of 8-bit RGB without antialiasing: (H, W, 3) -> (h, w, 3), values rounded. */
export function resizePicture({ data, height, width }, [rows, columns]) {
  if (rows === height && columns === width) return { data, height, width };
  const axis = (from, to) =>
    Array.from({ length: to }, (_, index) => {
      const at = Math.min(Math.max((index + 0.5) * (from / to) - 0.5, 0), from - 1);
      const low = Math.floor(at);
      return [low, Math.min(low + 1, from - 1), at - low];
    });
  const [down, across] = [axis(height, rows), axis(width, columns)];
  const out = new Uint8ClampedArray(rows * columns * 3);
  let place = 0;
  for (const [top, bottom, v] of down) {
    for (const [left, right, u] of across) {
      for (let c = 0; c < 3; c++) {
        const value = (row, column) => data[(row * width + column) * 3 + c];
        const above = value(top, left) * (1 - u) + value(top, right) * u;
        const below = value(bottom, left) * (1 - u) + value(bottom, right) * u;
        out[place++] = Math.round(above * (1 - v) + below * v);
      }
    }
  }
  return { data: out, height: rows, width: columns };
}

/** (H, W, 3) 8-bit -> (3, H, W) float: (value - mean) / deviation. */
export function normalised({ data, height, width }, { mean, std }) {
  const size = height * width;
  const out = new Float32Array(3 * size);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < size; i++) out[c * size + i] = (data[3 * i + c] - mean[c]) / std[c];
  }
  return out;
}

/** Where windows start along a side; the last one is moved inside. */
function starts(side, crop, stride) {
  const count = Math.ceil(Math.max(side - crop, 0) / stride) + 1;
  return Array.from({ length: count }, (_, i) => Math.min(i * stride, side - crop));
}

/** Windows of a picture: {tops, lefts, size: [h, w]}. */
export function windowsOf(height, width, { crop, stride }) {
  if (!crop) return { tops: [0], lefts: [0], size: [height, width] };
  const size = [Math.min(crop, height), Math.min(crop, width)];
  return { tops: starts(height, size[0], stride), lefts: starts(width, size[1], stride), size };
}

/** One window (3, h, w) of pixels (3, H, W). */
export function cut(pixels, height, width, top, left, [rows, columns]) {
  const out = new Float32Array(3 * rows * columns);
  let place = 0;
  for (let c = 0; c < 3; c++) {
    for (let row = 0; row < rows; row++) {
      const from = (c * height + top + row) * width + left;
      out.set(pixels.subarray(from, from + columns), place);
      place += columns;
    }
  }
  return out;
}

/** Cosines (Q, cells) of features (D, cells) with unit rows, an array of Float32Array(D). */
export function cosines(features, cells, rows) {
  const dim = features.length / cells;
  const length = new Float64Array(cells);
  for (let d = 0; d < dim; d++) {
    for (let i = 0; i < cells; i++) length[i] += features[d * cells + i] ** 2;
  }
  for (let i = 0; i < cells; i++) length[i] = Math.max(Math.sqrt(length[i]), 1e-12);
  return rows.map((row) => {
    const sum = new Float64Array(cells);
    for (let d = 0; d < dim; d++) {
      const factor = row[d];
      for (let i = 0; i < cells; i++) sum[i] += factor * features[d * cells + i];
    }
    return Float32Array.from(sum, (value, i) => value / length[i]);
  });
}

/** Two neighbours and the weight of the second, for a resize of `from` cells to `to` (corners not aligned). */
function bilinear(from, to) {
  return Array.from({ length: to }, (_, index) => {
    const at = Math.max((index + 0.5) * (from / to) - 0.5, 0);
    const low = Math.min(Math.floor(at), from - 1);
    return [low, Math.min(low + 1, from - 1), at - low];
  });
}

/** Rows of (target, windows * cells): upsample each window, average overlaps, resize. Sparse: lists of [cell, weight]. */
export function axisRows(cells, begins, crop, side, target) {
  const up = bilinear(cells, crop);
  const placed = Array.from({ length: side }, () => []);
  begins.forEach((begin, index) => {
    up.forEach(([low, high, part], row) => {
      placed[begin + row].push([index * cells + low, 1 - part], [index * cells + high, part]);
    });
  });
  const averaged = placed.map((list) => list.map(([cell, weight]) => [cell, (2 * weight) / list.length]));
  if (target === side) return averaged;
  return bilinear(side, target).map(([low, high, part]) => [
    ...averaged[low].map(([cell, weight]) => [cell, weight * (1 - part)]),
    ...averaged[high].map(([cell, weight]) => [cell, weight * part]),
  ]);
}

/**
 * Logits (H * W) of a query from those of all windows.
 * @param {Float32Array[]} windows one (h * w) each, row by row.
 * @param grid {tops, lefts, size}, cells [h, w], picture [h, w] of the network, size [H, W] wanted.
 */
export function stitched(windows, grid, [h, w], picture, [height, width]) {
  const down = axisRows(h, grid.tops, grid.size[0], picture[0], height);
  const across = axisRows(w, grid.lefts, grid.size[1], picture[1], width);
  const columns = grid.lefts.length;
  const wide = []; // one row of the picture's width per row of cells
  for (let row = 0; row < grid.tops.length * h; row++) {
    const [part, inner] = [Math.floor(row / h), row % h];
    wide.push(
      Float64Array.from(across, (list) => {
        let sum = 0;
        for (const [cell, weight] of list) {
          const window = windows[part * columns + Math.floor(cell / w)];
          sum += weight * window[inner * w + (cell % w)];
        }
        return sum;
      }),
    );
  }
  const out = new Float32Array(height * width);
  const line = new Float64Array(width);
  down.forEach((list, row) => {
    line.fill(0);
    for (const [cell, weight] of list) {
      const values = wide[cell];
      for (let i = 0; i < width; i++) line[i] += weight * values[i];
    }
    out.set(line, row * width);
  });
  return out;
}

/** A map (H, W) with its border repeated `radius` times. */
function padded(map, height, width, radius) {
  const wide = width + 2 * radius;
  const out = new Float32Array((height + 2 * radius) * wide);
  for (let row = -radius; row < height + radius; row++) {
    const from = Math.min(Math.max(row, 0), height - 1) * width;
    const to = (row + radius) * wide;
    out.fill(map[from], to, to + radius);
    out.set(map.subarray(from, from + width), to + radius);
    out.fill(map[from + width - 1], to + radius + width, to + wide);
  }
  return out;
}

const DIRECTIONS = [[-1, -1], [-1, 0], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 0], [1, 1]];
const offsetsOf = (dilations) => dilations.flatMap((d) => DIRECTIONS.map(([r, c]) => [r * d, c * d]));

/** Weights of the neighbours (Araslanov and Roth, CVPR 2020, section 3.3): one map (H, W) each. */
export function pamrWeights(pixels, height, width, dilations) {
  const [size, radius, offsets] = [height * width, Math.max(...dilations), offsetsOf(dilations)];
  const wide = width + 2 * radius;
  const made = offsets.map(() => new Float32Array(size));
  const count = 9 * dilations.length;
  for (let c = 0; c < 3; c++) {
    const own = pixels.subarray(c * size, (c + 1) * size);
    const around = padded(own, height, width, radius);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const at = row * width + column;
        const base = (row + radius) * wide + column + radius;
        let mean = 0;
        for (const [r, k] of offsets) mean += around[base + r * wide + k] - own[at];
        mean /= count;
        let squares = dilations.length * mean * mean;
        for (const [r, k] of offsets) squares += (around[base + r * wide + k] - own[at] - mean) ** 2;
        const scale = 1e-8 + 0.1 * Math.sqrt(squares / (count - 1));
        offsets.forEach(([r, k], n) => {
          made[n][at] -= Math.abs(around[base + r * wide + k] - own[at]) / scale / 3;
        });
      }
    }
  }
  for (let i = 0; i < size; i++) {
    let [largest, sum] = [-Infinity, 0];
    for (const map of made) largest = Math.max(largest, map[i]);
    for (const map of made) sum += map[i] = Math.exp(map[i] - largest);
    for (const map of made) map[i] /= sum;
  }
  return made;
}

/** Logits (H, W) averaged over like-coloured neighbours, `iterations` times. */
export function pamr(map, weights, height, width, { iterations, dilations }) {
  const [radius, offsets] = [Math.max(...dilations), offsetsOf(dilations)];
  const wide = width + 2 * radius;
  let now = map;
  for (let step = 0; step < iterations; step++) {
    const around = padded(now, height, width, radius);
    const next = new Float32Array(height * width);
    offsets.forEach(([r, k], n) => {
      const weight = weights[n];
      for (let row = 0; row < height; row++) {
        let from = (row + radius + r) * wide + radius + k;
        for (let at = row * width; at < (row + 1) * width; at++) next[at] += weight[at] * around[from++];
      }
    });
    now = next;
  }
  return now;
}

/** Class labels, the best score of each pixel after the softmax, and the share of every class. */
export function labelled(logits, classOf, classes, scale) {
  const size = logits[0].length;
  const labels = new Uint8Array(size);
  const scores = new Float32Array(size);
  const counts = new Array(classes).fill(0);
  for (let i = 0; i < size; i++) {
    let best = 0;
    for (let q = 1; q < logits.length; q++) if (logits[q][i] > logits[best][i]) best = q;
    let sum = 0;
    for (const map of logits) sum += Math.exp(scale * (map[i] - logits[best][i]));
    labels[i] = classOf[best];
    scores[i] = 1 / sum;
    counts[classOf[best]]++;
  }
  return { labels, scores, shares: counts.map((count) => count / size) };
}
