#!/usr/bin/env python3
"""Stands in for Android's adb: plays recorded answers, as $FAKE_ADB says, and logs what is asked.

Program outputs are those of real runs that their users published: benchmark_model (MobileNetV2 on
an Arm server), onnxruntime_perf_test (on a C1-Pro core, and the sample of an older README).
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

LITERT = """\
INFO: Min num runs: [60]
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 13.9193
INFO: Initialized session in 6.395ms.
INFO: Running benchmark for at least 5 iterations and at least 0.5 seconds but terminate if \
exceeding 150 seconds.
INFO: count=153 first=2761 curr=2885 min=2605 max=18080 avg=3243.58 std=2165 p5=2630 median=2761 \
p95=5331

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if \
exceeding 150 seconds.
INFO: count=337 first=2881 curr=2703 min=2605 max=20356 avg=2942.27 std=1190 p5=2647 median=2781 \
p95=3169

INFO: Inference timings in us: Init: 6395, First inference: 2761, Warmup (avg): 3243.58, \
Inference (avg): 2942.27
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only \
APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your \
discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=39.4531 overall=40.8281
"""
LITERT_PEAK = "INFO: Overall peak memory footprint (MB) via periodic monitoring: 45.0859\n"
ONNXRUNTIME = """\
Setting intra_op_num_threads to 1
Session creation time cost: 0.217932 s
First inference time cost: 196 ms
Total inference time cost: 0.49481 s
Total inference requests: 5
Average inference time cost total: 98.961997 ms
Total inference run time: 0.494854 s
Number of inferences per second: 10.104
Avg CPU usage: 11 %
Peak working set size: 271122432 bytes
Avg CPU usage:11
Peak working set size:271122432
Runs:5
Min Latency: 0.0958204 s
Max Latency: 0.101519 s
P50 Latency: 0.0995086 s
P90 Latency: 0.101519 s
P95 Latency: 0.101519 s
P99 Latency: 0.101519 s
P999 Latency: 0.101519 s
"""
PROPERTIES = """\
[ro.build.version.release]: [14]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.model]: [Tensor G3]
"""
DEVICES = {
    "none": "",
    "offline": "SERIAL1\toffline\n",
    "unauthorized": "SERIAL1\tunauthorized\n",
    "several": "SERIAL1\tdevice\nemulator-5554\tdevice\n",
}
NO_SPACE = (
    "adb: error: failed to copy 'model' to '/data/local/tmp/pgn/model': remote write failed: "
    "No space left on device\n"
)


def main(words: list[str]) -> int:
    scene, log = os.environ["FAKE_ADB"], Path(os.environ["FAKE_ADB_LOG"])
    with log.open("a", encoding="utf-8") as file:
        file.write(" ".join(words) + "\n")
    lost = scene == "unplugged" and "./litert" in log.read_text(encoding="utf-8")
    if words == ["devices"]:
        print("List of devices attached\n" + ("" if lost else _devices(scene)))
        return 0
    if lost:
        print("error: device 'SERIAL1' not found", file=sys.stderr)
        return 1
    if words[2] == "push":
        if scene == "full" and "model" in words[-1]:
            sys.stderr.write(NO_SPACE)
            return 1
        print(f"{words[3]}: 1 file pushed, 0 skipped. 53.7 MB/s (15669632 bytes in 0.278s)")
        return 0
    return _shell(words[3], scene, log)


def _devices(scene: str) -> str:
    return DEVICES.get(scene, "SERIAL1\tdevice\n")


def _shell(line: str, scene: str, log: Path) -> int:
    if "getprop" in line:
        print(PROPERTIES)
    elif "nproc" in line:
        print(9)
    elif "thermalservice" in line:
        after = scene == "hot" and "./" in log.read_text(encoding="utf-8")
        print(f"IsStatusOverride: false\nThermal Status: {3 if after else 0}")
    elif "./litert" in line:
        return _litert(line, scene)
    elif "./onnxruntime" in line:
        print(ONNXRUNTIME)
    return 0


def _litert(line: str, scene: str) -> int:
    if scene == "crash":
        print("ERROR: Failed to apply XNNPACK delegate.\nSegmentation fault")
        return 139
    if scene == "slow":
        print("INFO: Running")
        time.sleep(float(re.findall(r"timeout (\S+)", line)[0]))
        return 124
    if scene == "hung":
        time.sleep(5)
    if scene == "paper":
        print(_in_order(int(re.findall(r"model(\d+)", line)[0])))
        return 0
    print("Hello from a new version" if scene == "unreadable" else LITERT)
    if "report_peak_memory_footprint" in line:
        print(LITERT_PEAK)
    return 0


def _in_order(index: int) -> str:
    """The first model takes a millisecond and a MiB, the second one two of both, and so on."""
    printed = LITERT.replace("median=2781", f"median={1000 * (index + 1)}")
    return printed.replace("init=39.4531 overall=40.8281", f"init=5 overall={10 * (index + 1)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
