// What the page reads of a recipe's stages.

const STAGES = ["text", "windows", "attention", "pamr", "labels"];
const PLAIN = {
  windows: { pad_to: 0, multiple: 0, square: false, resampling: "bilinear" },
  text: { auxiliary_weight: 0, material_rules: null },
  labels: { probability_threshold: 0, area_threshold: 0, closing: 0, background_offset: 0, synonyms: "every", merge: "probability" },
};

/** Why the page cannot run a recipe, or null. */
export function whyNot({ name, stages }, prompts = null) {
  const unknown = Object.keys(stages).filter((stage) => !STAGES.includes(stage));
  if (unknown.length) return `recipe ${name} has stages that run in Python only: ${unknown.join(", ")}`;
  for (const [stage, fields] of Object.entries(PLAIN)) {
    for (const [field, value] of Object.entries(fields)) {
      if (stages[stage][field] !== value) return `recipe ${name} sets ${stage}.${field}, which the page does not know`;
    }
  }
  const [first, ...others] = ["thing", "stuff", "material"].map((kind) => JSON.stringify(prompts?.[kind]));
  if (others.some((one) => one !== first)) return `recipe ${name} has prompts by kind of word, which the page does not know`;
  return null;
}

/** Settings of a recipe as the worker takes them. */
export function settingsOf({ stages }) {
  const { short_side, long_side, crop, stride } = stages.windows;
  const { terms, gaussian_std, residual, feed_forward } = stages.attention;
  return {
    windows: { short_side, long_side, crop, stride },
    block: { terms: terms.split("+"), gaussian: gaussian_std ?? 0, residual, feedForward: feed_forward },
    pamr: stages.pamr ?? null,
    logitScale: stages.labels.logit_scale,
  };
}
