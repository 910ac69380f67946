"""What the stock benchmark programs print, older versions' too, and what cannot be read."""

from __future__ import annotations

import pytest

from pgn_bench.phone_adb import ShellError
from pgn_bench.phone_tools import LITERT, ONNXRUNTIME

OLD_LITERT = """\
Initialized session in 1.5e+03ms.
count=1 curr=3512390
count=50 first=2.9e+06 curr=3000000 min=2950340 max=3.1e+06 avg=2.96e+06 std=4
Memory footprint delta from the start of the tool (MB): init=4 overall=46.0859
"""
OLD_ONNXRUNTIME = """\
Total time cost:58.8053
Total iterations:1000
Average time cost:58.8053 ms
Min Latency is 0.0559777sec
Max Latency is 0.0623472sec
P50 Latency is 0.0587108sec
"""


def test_older_versions_are_read() -> None:
    found = LITERT.reading(OLD_LITERT)
    assert (found.typical_ms, found.min_ms, found.max_ms) == (2960.0, 2950.34, 3100.0)
    assert (found.calls, found.load_ms, found.process_bytes) == (50, 1500.0, None)
    assert found.peak_bytes == round(46.0859 * 2**20)
    found = ONNXRUNTIME.reading(OLD_ONNXRUNTIME)
    assert found.typical_ms == pytest.approx(58.7108) and found.min_ms == pytest.approx(55.9777)
    assert (found.calls, found.load_ms, found.process_bytes) == (1000, None, None)


def test_calls_that_all_took_the_same_are_read() -> None:
    found = LITERT.reading("INFO: count=4 curr=1200(all same)")
    assert (found.typical_ms, found.min_ms, found.max_ms, found.calls) == (1.2, 1.2, 1.2, 4)


@pytest.mark.parametrize(
    "printed", ["", "count=0", "count=3 avg=nan", "count=2 curr=1.2.3", "P50 Latency: 1 s"]
)
def test_what_cannot_be_read_is_no_figure(printed: str) -> None:
    for tool in (LITERT, ONNXRUNTIME):
        with pytest.raises(ShellError, match="cannot be read"):
            tool.reading(printed)
