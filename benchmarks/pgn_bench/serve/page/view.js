// Shows jobs, and what was measured of them. Text only: nothing is ever taken for HTML.

/** What the device can run in, to choose from, and what it lacks. */
export function showRuntimes(list, { usable, without }) {
  const having = usable.map(({ provider, threads }) => {
    const where = make("span", "", hardware(provider, threads));
    return make("li", "", tickBox(provider, shown(provider)), where);
  });
  const lacking = Object.entries(without).map(([provider, why]) =>
    make("li", "", make("span", "", shown(provider)), make("span", "", why)),
  );
  list.replaceChildren(...having, ...lacking);
}

export function tickedRuntimes(usable) {
  return usable.filter(({ provider }) => document.getElementById(provider).checked);
}

/** A card for each job, to choose from. */
export function showJobs(place, jobs) {
  place.replaceChildren(...jobs.map(card));
}

export function tickedJobs(jobs) {
  return jobs.filter((_, index) => document.getElementById(`job${index}`).checked);
}

/** In each job's card, its times as bars, and what failed. */
export function showResults(jobs, { rows, failed }) {
  const slowest = Math.max(...rows.map((row) => row.median_ms));
  const of = (job) => (row) =>
    ["provider", "dtype", "size", "batch"].every((name) => row[name] === job[name]);
  for (const [index, job] of jobs.entries()) {
    document
      .getElementById(`results${index}`)
      .replaceChildren(
        ...rows.filter(of(job)).map((row) => timed(row, slowest)),
        ...failed
          .filter(of(job))
          .map(({ runtime, reason }) =>
            make("div", "row", make("p", "", shown(runtime)), make("p", "failed", reason)),
          ),
      );
  }
}

function card({ provider, dtype, size, batch, details, file_bytes }, index) {
  const photos = batch === 1 ? "1 photo" : `${batch} photos`;
  const weights = details?.weights ? `; weights: ${details.weights}` : "";
  const megabytes = `${(file_bytes / 1e6).toFixed(1)} MB`;
  const what = `${dtype}, ${size} px, ${photos} a call, ${megabytes}${weights}`;
  const results = make("div", "");
  results.id = `results${index}`;
  const title = make("h2", "", tickBox(`job${index}`, provider));
  return make("article", "card", title, make("p", "small", what), results);
}

function tickBox(id, text) {
  const box = make("input", "");
  Object.assign(box, { type: "checkbox", checked: true, id });
  return make("label", "", box, ` ${text}`);
}

function timed({ runtime, threads, median_ms, p90_ms, load_ms, noisy }, slowest) {
  const bar = make("div", "");
  bar.style.width = `${(100 * median_ms) / slowest}%`;
  const name = `${shown(runtime)}, ${hardware(runtime, threads)}`;
  const rest =
    `90 % within ${milliseconds(p90_ms)}; loaded in ${milliseconds(load_ms)}` +
    (noisy ? "; disturbed by other work" : "");
  return make(
    "div",
    "row",
    make("p", "", make("span", "", name), make("span", "figure", milliseconds(median_ms))),
    make("div", "bar", bar),
    make("p", "small", rest),
  );
}

function shown(runtime) {
  return runtime.endsWith("webgpu") ? "WebGPU" : "WebAssembly";
}

function hardware(runtime, threads) {
  if (runtime.endsWith("webgpu")) return "on the GPU";
  return threads > 1 ? `${threads} threads` : "1 thread";
}

function milliseconds(value) {
  return `${value < 100 ? value.toPrecision(3) : Math.round(value)} ms`;
}

function make(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}
