// What is timed: a gradient, or a fitting step, each opened from its files, checked against what it
// must give, and then called. The expected values were computed in PyTorch, in float64.

import { Fitting, adamNumbers } from "./fitting.js";
import { readSafetensors } from "./safetensors.js";

const STD = [0.229, 0.224, 0.225]; // ImageNet's, RGB
const STRIDE = 4; // test vectors hold the proxy at every fourth pixel of both axes
const DISTANCES = ["far", "mid", "near"]; // of test vectors, from the target
const KEPT = 256; // elements of each gradient in a pack's self-test

/** The server did not answer. */
export class LostConnection extends Error {}

/** Throws what a load has thrown: a network's failures are TypeErrors, too little memory is none. */
export function rethrow(error) {
  throw error instanceof TypeError ? new LostConnection(error.message) : error;
}

/** A file of the server's, as an ArrayBuffer. */
async function download(address) {
  const reply = await fetch(address).catch(rethrow);
  if (!reply.ok) throw new Error(await reply.text().catch(rethrow));
  return reply.arrayBuffer().catch(rethrow);
}

/**
 * Open a job: {loadMs, errors, call, release}; call() is what is timed, errors are those of its
 * first results, {what: relative L2}, under the names that job.limits has, and release() gives its
 * memory back. A job that cannot be opened keeps none.
 *
 * @param ort onnxruntime-web
 * @param job of the plan: kind, files, graphs, limits and what its kind needs
 * @param options of the sessions
 */
export async function openJob(ort, job, options) {
  const files = {};
  for (const [name, address] of Object.entries(job.files)) files[name] = await download(address);
  const sessions = {};
  const release = async (names) => {
    for (const name of names) {
      await sessions[name]?.release();
      delete sessions[name];
    }
  };
  const { check, timed } = KINDS[job.kind];
  try {
    const start = performance.now();
    for (const name of job.graphs) {
      sessions[name] = await ort.InferenceSession.create(files[name], options);
    }
    const loadMs = performance.now() - start;
    const checked = await check(ort, job, sessions, files);
    await release(job.graphs.filter((name) => !timed.includes(name)));
    return { loadMs, ...checked, release: () => release(timed) };
  } catch (error) {
    await release(job.graphs).catch(() => {}); // nothing works any more where memory has run out
    throw error;
  }
}

const KINDS = {
  gradient: { check: checkGradient, timed: ["proxy"] },
  fit: { check: checkFit, timed: ["gradient", "update"] },
};

async function checkGradient(ort, job, sessions, files) {
  const errors = {};
  const calls = {};
  for (const [distance, test] of Object.entries(readCases(files.vectors))) {
    const { generated, target, proxy, shape } = test;
    const tensor = (data) => new ort.Tensor("float32", data, shape);
    const seen = sessions.target_features
      ? await sessions.target_features.run({ target: tensor(target) })
      : { target: tensor(target) };
    const inputs = { generated: tensor(generated), ...seen };
    const found = (await sessions.proxy.run(inputs)).proxy.data;
    const at = (k) => thinIndex(k, shape);
    errors[distance] = relativeL2(
      proxy.map((_, k) => generated[at(k)] - found[at(k)]),
      proxy.map((wanted, k) => generated[at(k)] - wanted),
    );
    calls[distance] = async () => {
      const outputs = await sessions.proxy.run(inputs);
      return closedForm(generated, outputs.proxy.data, shape, job.alpha);
    };
  }
  return { errors, call: calls.mid };
}

async function checkFit(ort, job, sessions, files) {
  const wanted = readSafetensors(files.selftest);
  const tensor = ({ data, shape }) => new ort.Tensor("float32", data, shape);
  const batch = { photo: tensor(wanted.photo), condition: tensor(wanted.condition) };
  const fitting = new Fitting(ort, sessions, readSafetensors(files.weights), [batch]);
  await fitting.begin();
  const before = fitting.state;
  const { seen, sums } = await fitting.step(job.learning_rate);
  const size = batch.photo.dims.slice(2);
  const { epsilon } = adamNumbers(job.learning_rate, 1, job.batch, size);
  const all = (read) => job.trained.flatMap((name) => Array.from(read(name)));
  const sum = (name) => sums[`sum_of_${name}`].data;
  const errors = {
    generated: relativeL2(seen[0].generated.data, wanted.generated.data),
    mse: relativeL2(seen[0].mse.data, wanted.mse.data),
    gradient: relativeL2(
      all((name) => thinned(sum(name))),
      all((name) => wanted[`new_sum_of_${name}`].data),
    ),
    update: relativeL2(
      all((name) => {
        const after = fitting.state[`value_of_${name}`].data;
        const moved = (value, k) => (value - after[k]) / job.learning_rate;
        return Array.from(before[`value_of_${name}`].data, moved);
      }),
      all((name) => sum(name).map((g) => g / (Math.abs(g) + epsilon))), // Adam's first step
    ),
  };
  return { errors, call: () => fitting.step(job.learning_rate) };
}

/** Test vectors of an export, by distance: pixels, and the proxy that the network gives there. */
function readCases(file) {
  const { target, blurred, share, proxy } = readSafetensors(file);
  const [count, ...shape] = target.shape;
  const part = ({ data }, k) => {
    const size = data.length / count;
    return data.subarray(k * size, (k + 1) * size);
  };
  const cases = DISTANCES.map((distance, k) => {
    const sharp = Float32Array.from(part(target, k), (byte) => byte / 255);
    const blur = Float32Array.from(part(blurred, k), (byte) => byte / 255);
    const generated = sharp.map((pixel, i) => pixel + share.data[k] * (blur[i] - pixel));
    return [distance, { shape, generated, target: sharp, proxy: part(proxy, k) }];
  });
  return Object.fromEntries(cases);
}

/** Where in (N, 3, H, W) the element k of every STRIDE-th row and column lies. */
function thinIndex(k, [, , height, width]) {
  const [rows, columns] = [Math.ceil(height / STRIDE), Math.ceil(width / STRIDE)];
  const plane = Math.floor(k / (rows * columns));
  const row = Math.floor(k / columns) % rows;
  return (plane * height + row * STRIDE) * width + (k % columns) * STRIDE;
}

/** The gradient per pixel, as pgn_runtime.gradient.closed_form without an MSE term. */
export function closedForm(generated, proxy, [, , height, width], alpha) {
  const area = height * width;
  const factors = STD.map((std) => (2 * alpha) / (3 * area * std * std));
  const gradient = new Float32Array(generated.length);
  for (let i = 0; i < gradient.length; i++) {
    gradient[i] = factors[Math.floor(i / area) % 3] * (generated[i] - proxy[i]);
  }
  return gradient;
}

/** The evenly spaced elements that a self-test keeps. */
function thinned(data) {
  const stride = Math.max(1, Math.floor(data.length / KEPT));
  return data.filter((_, k) => k % stride === 0).slice(0, KEPT);
}

/** Length of the difference over that of `wanted`; NaN where the numbers of elements differ. */
export function relativeL2(found, wanted) {
  if (found.length !== wanted.length) return NaN;
  let [apart, length] = [0, 0];
  for (let k = 0; k < wanted.length; k++) {
    apart += (found[k] - wanted[k]) ** 2;
    length += wanted[k] ** 2;
  }
  return Math.sqrt(apart / length);
}
