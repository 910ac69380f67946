// The page: what this device has, one run of all measurements, and the figures' way home.

import { machine, runtimes } from "./device.js";
import { measure } from "./measure.js";
import { keep, recall } from "./storage.js";
import { showJobs, showResults, showRuntimes, tickedJobs, tickedRuntimes } from "./view.js";
import { connect } from "./worker_client.js";

const RESULT = ["localStorage", "pgn-bench result"]; // until the computer has it
const DOING = ["sessionStorage", "pgn-bench doing"]; // it outlives a tab that the browser ends
const LOST =
  "The computer does not answer. Is pgn-bench still running there, and this device in its network?";
const CUT_OFF =
  "If the browser closed the page by itself, its memory did not suffice: untick the largest, and start again.";
const element = (id) => document.getElementById(id);

let plan;
let found;
let unsent = recall(...RESULT);

async function prepare() {
  const reply = await fetch("plan.json").catch(() => null);
  if (!reply?.ok) return say("bad", LOST);
  plan = await reply.json();
  found = await runtimes();
  showRuntimes(element("runtimes"), found);
  showJobs(element("jobs"), plan.jobs);
  element("device").textContent = `onnxruntime-web ${plan.runtime_version}. ${navigator.userAgent}`;
  element("start").disabled = false;
  const doing = recall(...DOING);
  const told = doing ? `The last run here was cut off at: ${doing}. ${CUT_OFF}` : "";
  if (unsent) offer(`${told} Figures of an earlier run wait on this device to be sent.`.trim());
  else say("bad", told);
}

async function start() {
  const usable = tickedRuntimes(found.usable);
  const jobs = tickedJobs(plan.jobs);
  if (!usable.length || !jobs.length) return say("bad", "Nothing is ticked to be measured.");
  element("setup").hidden = element("rescue").hidden = true;
  element("progress").hidden = false;
  say("", "");
  const date = new Date().toISOString();
  let hidden = document.hidden;
  const watch = () => (hidden ||= document.hidden);
  document.addEventListener("visibilitychange", watch);
  const awake = await navigator.wakeLock?.request("screen").catch(() => null);
  const workers = [];
  try {
    if (unsent) await send();
    if (unsent) return; // else this run's figures would take their place
    for (const runtime of usable) workers.push(await connect(runtime));
    const measured = await measure({ ...plan, jobs }, workers, showProgress);
    showResults(plan.jobs, measured);
    keepResult(JSON.stringify(await report(date, measured, hidden)));
    await send();
  } catch (error) {
    say("bad", error.lost ? `${LOST} This run could not be finished.` : `Failed: ${error.message}`);
  } finally {
    for (const { worker } of workers) worker.terminate();
    keep(...DOING, null);
    document.removeEventListener("visibilitychange", watch);
    await awake?.release();
    element("progress").hidden = true;
    element("setup").hidden = false;
    element("start").textContent = "Start again";
  }
}

/** A result file; a page in the background is given less of the processor: its rows are noisy. */
async function report(date, { rows, failed }, hidden) {
  const { rounds, block, warm_up, command } = plan;
  return {
    schema: 1,
    kind: "browser",
    machine: await machine(plan, found),
    command,
    date,
    settings: { rounds, block, warm_up, failed, without: found.without },
    rows: rows.map((row) => ({ ...row, noisy: row.noisy || hidden })),
  };
}

/** Post what is kept; it stays kept until the computer has it. */
async function send() {
  const sent = unsent;
  const body = new Blob([sent], { type: "application/json" });
  const reply = await fetch("results", { method: "POST", body }).catch(() => null);
  if (!reply) return offer(`${LOST} The figures are kept on this device.`);
  const answer = await reply.text();
  if (!reply.ok) return offer(`The computer refuses the figures. ${answer}`);
  const { rows, settings } = JSON.parse(sent);
  const all = rows.length + settings.failed.length;
  keepResult(null);
  element("rescue").hidden = true;
  const count = rows.length < all ? ` ${all - rows.length} of ${all} could not be measured.` : "";
  return say(rows.length ? "good" : "bad", `Sent. The computer keeps the figures as ${answer}.${count}`);
}

function offer(text) {
  URL.revokeObjectURL(element("save").href);
  element("save").href = URL.createObjectURL(new Blob([unsent], { type: "application/json" }));
  element("rescue").hidden = false;
  say("bad", text);
}

function keepResult(text) {
  unsent = text;
  keep(...RESULT, text);
}

function showProgress({ text, share }) {
  keep(...DOING, text);
  element("doing").textContent = text;
  element("bar").value = share;
}

function say(kind, text) {
  element("state").className = kind;
  element("state").textContent = text;
}

element("start").onclick = start;
element("send").onclick = send;
element("discard").onclick = () => {
  keepResult(null);
  element("rescue").hidden = true;
  say("", "");
};
await prepare();
