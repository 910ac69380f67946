// The fitting step of a pack: stock inference graphs, called in turn, of which every one takes what
// its inputs are called from one dictionary of named tensors. No training build of any runtime.
//
// Images are (M, 3, H, W) float32 pixels in [0, 1], M photos a batch.

const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;
const NEW = "new_"; // before the name of an input that comes out again

/** What the update takes to be Adam on the mean of the photos' losses; `step` counts from 1. */
export function adamNumbers(learningRate, step, photos, [height, width]) {
  return {
    rate: learningRate / (1 - BETA1 ** step),
    square_correction: 1 / (1 - BETA2 ** step),
    epsilon: (EPSILON * photos * 3 * height * width) / 2,
  };
}

export class Fitting {
  /**
   * @param ort onnxruntime-web
   * @param sessions the pack's graphs by name; those that it does not have are left out
   * @param weights tensors of weights.safetensors, {name: {shape, data}}
   * @param batches [{photo, condition}, ...], tensors of onnxruntime-web
   */
  constructor(ort, sessions, weights, batches) {
    this.ort = ort;
    this.sessions = sessions;
    this.batches = batches;
    this.steps = 0;
    this.state = mapValues(weights, ({ shape, data }) => new ort.Tensor("float32", data, shape));
  }

  /** All that is computed once: the photos' first values, frozen prefixes, the targets' features. */
  async begin() {
    const starts = [];
    for (const batch of this.batches) starts.push(await this.#run("start", batch));
    Object.assign(this.state, this.#means(starts));
    for (const batch of this.batches) {
      batch.target = batch.photo;
      Object.assign(batch, await this.#run("prefix", { ...this.state, ...batch }));
      Object.assign(batch, await this.#run("target_features", batch));
    }
    const { inputNames } = this.sessions.update;
    const moments = inputNames.filter((name) => /^(mean|square)_of_/.test(name));
    const sums = inputNames.filter((name) => name.startsWith("sum_of_"));
    Object.assign(this.state, this.#zeros(moments));
    this.zeroSums = this.#zeros(sums);
  }

  /** One step over all photos; gives every batch's `generated` and `mse`, and the `sums`. */
  async step(learningRate) {
    this.steps += 1;
    const seen = [];
    let sums = this.zeroSums;
    for (const batch of this.batches) {
      const found = await this.#run("gradient", { ...this.state, ...sums, ...batch });
      seen.push({ generated: found.generated, mse: found.mse });
      sums = renewed(found);
    }
    const [count, , ...size] = this.batches[0].photo.dims;
    const photos = count * this.batches.length;
    const numbers = mapValues(
      adamNumbers(learningRate, this.steps, photos, size),
      (value) => new this.ort.Tensor("float32", [value], [1]),
    );
    const found = await this.#run("update", { ...this.state, ...sums, ...numbers });
    this.state = { ...this.state, ...renewed(found) };
    return { seen, sums };
  }

  /** The image of a condition, with the weights as they are now. */
  async render(condition) {
    return (await this.#run("render", { ...this.state, condition })).generated;
  }

  async #run(graph, pool) {
    const session = this.sessions[graph];
    if (!session) return {};
    return session.run(Object.fromEntries(session.inputNames.map((name) => [name, pool[name]])));
  }

  #zeros(names) {
    const like = (name) => this.state[name.replace(/^[a-z]+_of_/, "value_of_")].dims;
    const zero = (dims) =>
      new this.ort.Tensor("float32", new Float32Array(dims.reduce((a, b) => a * b, 1)), dims);
    return Object.fromEntries(names.map((name) => [name, zero(like(name))]));
  }

  #means(starts) {
    return mapValues(starts[0], (first, name) => {
      const mean = first.data.map(
        (_, k) => starts.reduce((total, start) => total + start[name].data[k], 0) / starts.length,
      );
      return new this.ort.Tensor("float32", mean, first.dims);
    });
  }
}

/** Those outputs that are new values of inputs, under the inputs' names. */
function renewed(outputs) {
  const kept = Object.entries(outputs).filter(([name]) => name.startsWith(NEW));
  return Object.fromEntries(kept.map(([name, tensor]) => [name.slice(NEW.length), tensor]));
}

function mapValues(object, change) {
  return Object.fromEntries(
    Object.entries(object).map(([name, value]) => [name, change(value, name)]),
  );
}
