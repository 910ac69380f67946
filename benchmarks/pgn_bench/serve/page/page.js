// The page: what this device has, one run of all measurements, and the figures' way home.

import { machine, runtimes } from "./device.js";
import { measure } from "./measure.js";
import { chosen, showJobs, showResults, showRuntimes } from "./view.js";
import { connect } from "./worker_client.js";

const KEPT = "pgn-bench result"; // in the browser's storage
const LOST =
  "The computer does not answer. Is pgn-bench still running there, and this device in its network?";
const element = (id) => document.getElementById(id);

let plan;
let found;
let unsent = recall();

async function prepare() {
  const reply = await fetch("plan.json").catch(() => null);
  if (!reply?.ok) return say("bad", LOST);
  plan = await reply.json();
  found = await runtimes();
  showRuntimes(element("runtimes"), found);
  showJobs(element("jobs"), plan.jobs);
  element("device").textContent = `onnxruntime-web ${plan.runtime_version}. ${navigator.userAgent}`;
  element("start").disabled = false;
  if (unsent) offer("Figures of an earlier run wait on this device to be sent.");
}

async function start() {
  const date = new Date().toISOString();
  let hidden = document.hidden;
  const watch = () => (hidden ||= document.hidden);
  document.addEventListener("visibilitychange", watch);
  const awake = await navigator.wakeLock?.request("screen").catch(() => null);
  element("setup").hidden = element("rescue").hidden = true;
  element("progress").hidden = false;
  say("", "");
  const workers = [];
  try {
    for (const runtime of chosen(found.usable)) workers.push(await connect(runtime));
    const measured = await measure(plan, workers, showProgress);
    showResults(element("jobs"), plan.jobs, measured);
    keep(JSON.stringify(await report(date, measured, hidden)));
    await send();
  } catch (error) {
    say("bad", error.lost ? `${LOST} This run could not be finished.` : `Failed: ${error.message}`);
  } finally {
    for (const { worker } of workers) worker.terminate();
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
  const body = new Blob([unsent], { type: "application/json" });
  const reply = await fetch("results", { method: "POST", body }).catch(() => null);
  if (!reply) return offer(`${LOST} The figures are kept on this device.`);
  const answer = await reply.text();
  if (!reply.ok) return offer(`The computer refuses the figures. ${answer}`);
  keep(null);
  element("rescue").hidden = true;
  return say("good", `Sent. The computer keeps them as ${answer}.`);
}

function offer(text) {
  URL.revokeObjectURL(element("save").href);
  element("save").href = URL.createObjectURL(new Blob([unsent], { type: "application/json" }));
  element("rescue").hidden = false;
  say("bad", text);
}

function keep(text) {
  unsent = text;
  try {
    if (text) localStorage.setItem(KEPT, text);
    else localStorage.removeItem(KEPT);
  } catch {
    // storage is switched off: kept until the page is closed
  }
}

function recall() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

function showProgress({ text, share }) {
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
  keep(null);
  element("rescue").hidden = true;
  say("", "");
};
await prepare();
