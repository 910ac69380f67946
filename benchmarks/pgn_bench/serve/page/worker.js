// One build of onnxruntime-web in a thread of its own: the page lives on while it computes.

import { LostConnection, openJob, rethrow } from "./jobs.js";

let ort;
let options;
const jobs = [];

const METHODS = {
  /** Load the build `provider`, wasm or webgpu. */
  async start({ provider, threads }) {
    const build = new URL(`ort/ort.${provider}.bundle.min.mjs`, self.location);
    ort = await import(build).catch(rethrow);
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    options = { executionProviders: [provider] };
  },

  /** Open a job of the plan; from now on it is known by its index. */
  async open(job) {
    const { loadMs, errors, ...opened } = await openJob(ort, job, options);
    return { index: jobs.push(opened) - 1, loadMs, errors };
  },

  /** Give a job's memory back. */
  async close(index) {
    await jobs[index].release();
    delete jobs[index];
  },

  /** Milliseconds of `count` calls, after `unmeasured` ones. */
  async block({ index, unmeasured, count }) {
    const { call } = jobs[index];
    for (let k = 0; k < unmeasured; k++) await call();
    const milliseconds = [];
    for (let k = 0; k < count; k++) {
      const start = performance.now();
      await call();
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
