// What this device and its browser are, and which of the two runtimes they have.

const MAX_THREADS = 4; // the small cores of phones slow the large ones down

/** {usable: [{provider, runtime, device, threads}], without: {provider: why}, gpu}. */
export async function runtimes() {
  const threads = crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;
  const usable = [runtime("wasm", "cpu", threads)];
  const [gpu, why] = await findGpu();
  if (gpu) usable.push(runtime("webgpu", "gpu", 1));
  return { usable, without: gpu ? {} : { webgpu: why }, gpu };
}

function runtime(provider, device, threads) {
  return { provider, runtime: `onnxruntime-web ${provider}`, device, threads };
}

async function findGpu() {
  if (!isSecureContext) return [null, "only on secure pages: https, or localhost"];
  if (!navigator.gpu) return [null, "this browser has none"];
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter) return [null, "the browser gives no GPU"];
  const { vendor, architecture, device, description } = adapter.info ?? {};
  const fp16 = adapter.features.has("shader-f16");
  return [{ vendor, architecture, device, description, fp16 }, null];
}

/** As result files describe a machine; what a browser does not tell is left out. */
export async function machine(plan, { gpu }) {
  const hints = ["model", "platformVersion", "architecture", "bitness"];
  const told = await navigator.userAgentData?.getHighEntropyValues(hints).catch(() => null);
  const { model, platform, platformVersion, architecture } = told ?? {};
  return {
    processor: [model, architecture].filter(Boolean).join(" ") || navigator.platform,
    cores: navigator.hardwareConcurrency,
    system: [platform, platformVersion].filter(Boolean).join(" ") || navigator.platform,
    memory_gb: navigator.deviceMemory ?? null,
    user_agent: navigator.userAgent,
    webgpu: gpu,
    isolated: crossOriginIsolated,
    screen: [screen.width, screen.height, devicePixelRatio],
    clock_ms: clockStep(),
    "onnxruntime-web": plan.runtime_version,
  };
}

/** The smallest step of the clock that times calls; browsers make it coarse on purpose. */
function clockStep() {
  const steps = Array.from({ length: 5 }, () => {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    return now - start;
  });
  return Math.min(...steps);
}
