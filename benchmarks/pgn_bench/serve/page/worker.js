// One build of onnxruntime-web in a thread of its own: the page lives on while it computes.

import { LostConnection, openJob } from "./jobs.js";

let ort;
let options;
const jobs = [];

const METHODS = {
  /** Load the build `provider`, wasm or webgpu. */
  async start({ provider, threads }) {
    const build = new URL(`ort/ort.${provider}.bundle.min.mjs`, self.location);
    try {
      ort = await import(build);
    } catch (error) {
      throw new LostConnection(`${build.pathname} could not be loaded (${error.message})`);
    }
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    options = { executionProviders: [provider] };
  },

  /** Open a job of the plan; from now on it is known by its index. */
  async open(job) {
    const { loadMs, errors, call } = await openJob(ort, job, options);
    return { index: jobs.push(call) - 1, loadMs, errors };
  },

  /** Milliseconds of `count` calls, after `unmeasured` ones. */
  async block({ index, unmeasured, count }) {
    for (let k = 0; k < unmeasured; k++) await jobs[index]();
    const milliseconds = [];
    for (let k = 0; k < count; k++) {
      const start = performance.now();
      await jobs[index]();
      milliseconds.push(performance.now() - start);
    }
    return milliseconds;
  },
};

self.onmessage = async ({ data: { id, method, value } }) => {
  try {
    self.postMessage({ id, value: await METHODS[method](value) });
  } catch (error) {
    const lost = error instanceof LostConnection;
    self.postMessage({ id, error: { message: String(error?.message ?? error), lost } });
  }
};
