// The page's end of worker.js.

/** Starts a runtime in a worker of its own: {...runtime, worker, call(method, value)}. */
export async function connect(runtime) {
  const worker = new Worker("worker.js", { type: "module" });
  const waiting = new Map();
  let calls = 0;
  const call = (method, value) =>
    new Promise((resolve, reject) => {
      waiting.set(calls, { resolve, reject });
      worker.postMessage({ id: calls, method, value });
      calls += 1;
    });
  worker.onmessage = ({ data: { id, value, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(Object.assign(new Error(error.message), { lost: error.lost }));
    else resolve(value);
  };
  worker.onerror = ({ message }) => {
    // without a message, the worker's own files could not be loaded
    const error = Object.assign(new Error(message ?? "no worker"), { lost: !message });
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  const { provider, threads } = runtime;
  try {
    await call("start", { provider, threads });
  } catch (error) {
    worker.terminate();
    throw error;
  }
  return { ...runtime, worker, call };
}
