// Fits a pack in Node with onnxruntime-web's WASM build, by the module that the page uses.
//
// node browser_pack.mjs MODULES PACK INPUTS.safetensors OUTPUT.json
//   MODULES  folder that holds node_modules/onnxruntime-web
//   INPUTS   photo and condition, (K, M, 3, H, W): K batches
//   OUTPUT   mse of every step and batch, the values after the last step, a rendered image

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

import { Fitting } from "../benchmarks/pgn_bench/serve/page/fitting.js";
import { readSafetensors } from "../benchmarks/pgn_bench/serve/page/safetensors.js";

const STEPS = 5;
const [modules, pack, inputs, output] = process.argv.slice(2);
const ort = createRequire(join(resolve(modules), "package.json"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;

const manifest = JSON.parse(readFileSync(join(pack, "manifest.json"), "utf8"));
const sessions = {};
for (const name of manifest.graphs) {
  const options = { executionProviders: ["wasm"] };
  sessions[name] = await ort.InferenceSession.create(join(pack, `${name}.onnx`), options);
}
const weights = read(join(pack, "weights.safetensors"));
const { photo, condition } = read(inputs);
const batches = Array.from({ length: photo.shape[0] }, (_, k) => ({
  photo: batch(photo, k),
  condition: batch(condition, k),
}));
const fitting = new Fitting(ort, sessions, weights, batches);
await fitting.begin();
const mse = [];
for (let step = 0; step < STEPS; step++) {
  const { seen } = await fitting.step(manifest.learning_rate);
  mse.push(seen.map((found) => [...found.mse.data]));
}
const values = manifest.trainable.parameters.map((name) => [name, fitting.state[`value_of_${name}`]]);
writeFileSync(
  output,
  JSON.stringify({
    mse,
    values: Object.fromEntries(values.map(([name, tensor]) => [name, [...tensor.data]])),
    rendered: [...(await fitting.render(batches[0].condition)).data],
  }),
);

function read(path) {
  const bytes = readFileSync(path);
  return readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

function batch({ shape, data }, k) {
  const size = data.length / shape[0];
  return new ort.Tensor("float32", data.slice(k * size, (k + 1) * size), shape.slice(1));
}
