// Runs the page's measuring with runtimes that only count: prints the order of calls, and rows.

import { measure, summary } from "../benchmarks/pgn_bench/serve/page/measure.js";

const job = (provider, limit) => ({
  provider, dtype: "fp32", size: 8, batch: 1, file_bytes: 3, limits: { near: limit },
  macs: 7, details: { weights: "w" },
});
const plan = { rounds: 2, block: 2, warm_up: 1, noisy: 1.31, jobs: [job("a", 0.1), job("wrong", 0.01)] };
const order = [];
let opened = 0;
const runtime = (name, fails) => ({
  runtime: name, device: "cpu", threads: 1,
  async call(method, value) {
    const { provider, index, unmeasured, count } = value;
    order.push([name, method, provider ?? index ?? value, unmeasured ?? null, count ?? null]);
    if (method === "close" && fails) throw new Error("it has crashed");
    if (method === "open") return { index: opened++, loadMs: 5, errors: { near: 0.05 } };
    if (fails && count) throw new Error("out of memory");
    return Array.from({ length: count }, (_, k) => order.length + k);
  },
});
const measured = await measure(plan, [runtime("x"), runtime("y"), runtime("z", true)], () => {});
const samples = JSON.parse(process.argv[2]);
console.log(JSON.stringify({ order, ...measured, summaries: samples.map(summary) }));
