// How we time, as pgn_bench.timing does: warm-up, short blocks of calls in turn (A B A B) after a
// rest, medians and percentiles. What gives a wrong result is told, and not timed.

const REST_MS = 50; // idle threads of a runtime spin for less before they sleep
const MEMORY = /bad_alloc|allocat|out of memory|\bOOM\b/i; // in messages: there is too little

/**
 * Measure every job of the plan in every runtime: {rows, failed}, as result files have them.
 *
 * @param plan of the server: jobs, rounds, block, warm_up; noisy, the p90 / p10 of a disturbed row
 * @param runtimes [{runtime, device, threads, call(method, value)}, ...]
 * @param show called with {text, share}
 */
export async function measure(plan, runtimes, show) {
  const entries = runtimes.flatMap((runtime) =>
    plan.jobs.map((job) => ({ job, runtime, milliseconds: [] })),
  );
  const phases = plan.rounds + 2;
  const inTurn = async (phase, text, act) => {
    for (const [k, entry] of entries.entries()) {
      if (entry.reason) continue;
      const { job, runtime } = entry;
      const name = `${job.provider} ${job.dtype}, ${runtime.runtime}`;
      show({ text: `${text}: ${name}`, share: (phase + k / entries.length) / phases });
      try {
        await act(entry);
      } catch (error) {
        if (error.lost) throw error;
        const why = MEMORY.test(error.message) ? "too little memory" : "cannot run";
        entry.reason = `${why}: ${error.message}`.slice(0, 300);
      }
      if (entry.reason) await close(entry);
    }
  };
  await inTurn(0, "Loading and checking", open);
  await inTurn(1, "Warming up", (entry) => block(entry, plan.warm_up, 0));
  for (let round = 1; round <= plan.rounds; round++) {
    await inTurn(round + 1, `Round ${round} of ${plan.rounds}`, async (entry) => {
      await new Promise((wake) => setTimeout(wake, REST_MS));
      entry.milliseconds.push(...(await block(entry, 1, plan.block)));
    });
  }
  const failed = ({ job, runtime, reason }) => ({ ...named(job, runtime), reason });
  return {
    rows: entries.filter((entry) => !entry.reason).map((entry) => row(entry, plan.noisy)),
    failed: entries.filter((entry) => entry.reason).map(failed),
  };
}

async function open(entry) {
  const { limits } = entry.job;
  Object.assign(entry, await entry.runtime.call("open", entry.job));
  const wrong = Object.keys(limits).find((what) => !(entry.errors[what] <= limits[what]));
  if (wrong) {
    const error = entry.errors[wrong].toPrecision(2);
    entry.reason = `wrong result: ${wrong} is off by ${error} of its length, at most ${limits[wrong]} is allowed`;
  }
}

/** What is left out leaves its memory to the others. */
async function close({ runtime, index }) {
  if (index === undefined) return; // it was never open
  await runtime.call("close", index).catch(() => {}); // nor can a crashed worker close it
}

const block = ({ runtime, index }, unmeasured, count) =>
  runtime.call("block", { index, unmeasured, count });

function named({ provider, size, batch, dtype }, { runtime, device, threads }) {
  return { provider, runtime, device, size, batch, threads, dtype };
}

function row({ job, runtime, loadMs, errors, milliseconds }, noisy) {
  const times = summary(milliseconds);
  return {
    ...named(job, runtime),
    ...times,
    noisy: times.p90_ms > noisy * times.p10_ms,
    load_ms: loadMs,
    file_bytes: job.file_bytes,
    parameters: job.parameters,
    macs: job.macs,
    details: { relative_l2: errors, ...job.details },
  };
}

/** Median and percentiles of all calls, linear between neighbours as numpy's. */
export function summary(milliseconds) {
  const sorted = [...milliseconds].sort((a, b) => a - b);
  const percentile = (share) => {
    const place = share * (sorted.length - 1);
    const [below, above] = [Math.floor(place), Math.ceil(place)];
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  };
  return {
    median_ms: percentile(0.5),
    p10_ms: percentile(0.1),
    p90_ms: percentile(0.9),
    calls: sorted.length,
  };
}
