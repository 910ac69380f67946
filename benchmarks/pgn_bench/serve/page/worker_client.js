// The page's end of worker.js.

/**
 * Starts a runtime in a worker of its own: {...runtime, worker, call(method, value)}. Where the
 * worker cannot start or has crashed, every call is rejected, with the reason.
 */
export async function connect(runtime) {
  const worker = new Worker("worker.js", { type: "module" });
  const waiting = new Map();
  let calls = 0;
  let started = false;
  let ended = null; // why
  const call = (method, value) =>
    new Promise((resolve, reject) => {
      if (ended) throw ended;
      waiting.set(calls, { resolve, reject });
      worker.postMessage({ id: calls, method, value });
      calls += 1;
    });
  const end = (error) => {
    ended = error;
    worker.onmessage = null;
    worker.terminate();
    for (const { reject } of waiting.values()) reject(error);
  };
  worker.onmessage = ({ data: { id, value, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(Object.assign(new Error(error.message), { lost: error.lost }));
    else resolve(value);
  };
  worker.onerror = ({ message }) => {
    // without a message, at the start: the worker's own files could not be loaded
    const error = new Error(`the browser's worker has crashed (${message || "no reason is told"})`);
    end(Object.assign(error, { lost: !started && !message }));
  };
  const { provider, threads } = runtime;
  try {
    await call("start", { provider, threads });
    started = true;
  } catch (error) {
    end(error);
    if (error.lost) throw error;
  }
  return { ...runtime, worker, call };
}
