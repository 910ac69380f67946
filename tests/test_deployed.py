"""What phones are given, from export to the report's verdicts: in a browser, and over (a fake) adb.

At 32 pixels, where times mean nothing: that each statement is judged is what counts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page
from test_phone import Desk, bench
from test_serve_page import browser, page, run, saved, serving, state  # noqa: F401  (fixtures)

from pgn import PGN, PGNConfig
from pgn_bench import deployed
from pgn_bench.report.settings import find_settings
from pgn_bench.report.statements import CLOSE, FAILS, HOLDS, MISSING, check
from pgn_bench.results import EXACT, Result, load
from pgn_bench.serve import jobs
from pgn_export import export

PEERS = {
    "pgn-resnet4", "pgn-resnet6", "pgn-resnet8", "pgn-unet", "exact vgg11", EXACT,
}  # fmt: skip


def verdicts(result: Result) -> list[bool]:
    """Whether each statement, in its order, was judged at all."""
    found = [finding.verdict for finding in check(find_settings([result]))]
    assert set(found) <= {HOLDS, FAILS, CLOSE, MISSING}
    return [verdict != MISSING for verdict in found]


def test_the_papers_peers_are_those_that_its_statements_name() -> None:
    found = dict(deployed.peers())
    assert found.keys() == PEERS
    random = {name for name, net in found.items() if "weights" in net.info}
    assert random | {EXACT} == PEERS, "VGG-19 has Oxford's weights where they are installed"
    assert [name for name, _ in deployed.networks()] == ["pgn-lite", "pgn-nano"]


@pytest.mark.filterwarnings("ignore")  # of converters, not ours
def test_only_what_recomputes_the_target_says_so(tmp_path: Path) -> None:
    config = PGNConfig("lite", gamma=1.0, options={"widths": [[8], [8]]})
    net = PGN(config).eval()
    made = [
        deployed.read(export(net, "onnx", tmp_path / str(c), 32, name="net", cached_target=c).path)
        for c in (True, False)
    ]
    assert [each.provider for each in made] == ["net", "net, target recomputed"]
    pixels, forward = 32 * 32, 9 * (3 * 8 + 8 * 8 / 4)  # of a pass, per pixel
    assert [each.macs for each in made] == [2 * forward * pixels, 3 * forward * pixels]
    assert made[0].parameters == sum(parameter.numel() for parameter in net.parameters())
    assert (made[0].size, made[0].batch, made[0].details) == (32, 1, {})


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The paper's peers as ONNX files."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployed, "SIZE", 32)
        return list(
            deployed.export_as(deployed.peers(), folder, [("onnx", "fp32")], lambda _: None)
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters, not ours
def test_a_browser_judges_the_statements(page: Page, exports: list[Path], tmp_path: Path) -> None:  # noqa: F811
    with serving(tmp_path, *jobs.find(exports)) as server:
        run(page, server)
        state(page, "Sent.")
    result = saved(tmp_path)
    assert result.settings["failed"] == []
    assert {row.provider for row in result.rows} == PEERS
    assert {row.provider for row in result.rows if "weights" in row.details} >= PEERS - {EXACT}
    # time: 1 and 4; parameters: 5; a browser does not tell memory
    assert verdicts(result) == [True, False, False, True, True, False]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters, not ours
def test_a_phone_judges_the_statements(
    exports: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ADB", "good")
    monkeypatch.setenv("FAKE_ADB_LOG", str(tmp_path / "log"))
    words = Desk(tmp_path).words("-o", tmp_path / "phone.json", models=False)
    done = bench([*words, *map(str, exports)])
    assert done.exit_code == 0, done.output
    # ONNX Runtime's program tells the memory of the whole process only
    assert verdicts(load(tmp_path / "phone.json")) == [True, False, False, True, True, False]
