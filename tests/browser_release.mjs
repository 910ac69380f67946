// Opens jobs in Node with onnxruntime-web's WASM build: prints which graphs are open, and when.
//
// node browser_release.mjs MODULES JOBS   (JSON: jobs of a plan whose files are paths)

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

import { openJob } from "../benchmarks/pgn_bench/serve/page/jobs.js";

const [modules, jobs] = process.argv.slice(2);
const ort = createRequire(join(resolve(modules), "package.json"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal";
globalThis.fetch = async (path) => new Response(readFileSync(path));

let open = 0;
const counted = {
  ...ort,
  Tensor: ort.Tensor,
  InferenceSession: {
    async create(...words) {
      const session = await ort.InferenceSession.create(...words);
      const release = session.release.bind(session);
      session.release = async () => {
        await release();
        open -= 1;
      };
      open += 1;
      return session;
    },
  },
};
const found = [];
for (const job of JSON.parse(jobs)) {
  try {
    const { call, release } = await openJob(counted, job, { executionProviders: ["wasm"] });
    const timed = open;
    await call();
    await release();
    found.push({ timed, left: open });
  } catch (error) {
    found.push({ error: error.message, left: open });
  }
}
console.log(JSON.stringify(found));
