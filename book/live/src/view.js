// A picture under its mask, or under a heat map, with a legend. One of these per recipe that is shown.

const HEAT = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

/** Colour of a value in [0, 1], dark blue to yellow. */
function heat(value) {
  const at = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
  const low = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[low].map((channel, c) => channel + (at - low) * (HEAT[low + 1][c] - channel));
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

export class View {
  constructor(figure) {
    this.figure = figure;
    this.canvas = figure.querySelector("canvas");
    this.title = figure.querySelector("[data-title]");
    this.legend = figure.querySelector("[data-legend]");
    this.result = null;
  }

  clear() {
    this.result = null;
    this.legend.replaceChildren();
  }

  setTitle(text) {
    this.title.textContent = text;
    this.canvas.setAttribute("aria-label", `The picture under the mask of ${text}`);
  }

  /** Legend with swatches and shares. */
  list(classes, colours) {
    const rows = classes.map((synonyms, index) => {
      const row = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = "live-swatch";
      swatch.style.background = `rgb(${colours[index]})`;
      const share = document.createElement("span");
      share.className = "live-share";
      share.textContent = percent(this.result.shares[index]);
      row.append(swatch, synonyms[0], share);
      return row;
    });
    this.legend.replaceChildren(...rows);
  }

  /** Draws the picture and what lies over it: {kind: "mask" | "heat", ...}. */
  draw(picture, over, opacity, mark) {
    const { data, height, width } = picture;
    const { canvas } = this;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      const colour = over?.(i);
      for (let c = 0; c < 3; c++) {
        const own = data[3 * i + c];
        image.data[4 * i + c] = colour ? own + opacity * (colour[c] - own) : own;
      }
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    if (mark) {
      for (const [colour, line] of [["#000", 3], ["#fff", 1]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.strokeRect(mark.left, mark.top, mark.width, mark.height);
      }
    }
  }

  /** Colour of each pixel by its class. */
  maskColours(colours) {
    const { labels } = this.result;
    return (i) => colours[labels[i]];
  }

  /** Colour of each pixel by a map (H * W), stretched from its least to its largest value. */
  heatColours(map) {
    let [least, most] = [Infinity, -Infinity];
    for (const value of map) {
      if (value < least) least = value;
      if (value > most) most = value;
    }
    return (i) => heat((map[i] - least) / (most - least || 1));
  }

  /** The same for attention over a box of the picture; nothing outside of it. */
  attentionColours({ map, cells, box }, width) {
    const most = Math.max(...map);
    return (i) => {
      const row = Math.floor((((Math.floor(i / width) + 0.5 - box.top) / box.height) * cells[0]));
      const column = Math.floor(((((i % width) + 0.5 - box.left) / box.width) * cells[1]));
      const inside = row >= 0 && column >= 0 && row < cells[0] && column < cells[1];
      return inside ? heat(map[row * cells[1] + column] / most) : null;
    };
  }
}
