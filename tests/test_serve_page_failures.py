"""The page of `pgn-bench serve`, where something fails: the rest goes on, the reason is told."""

# ruff: noqa: F811  (fixtures are imported, and then named as arguments)

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from packs import write_pack
from playwright.sync_api import Page, expect
from test_browser_pack import modules
from test_serve_page import (  # noqa: F401  (browser, page: fixtures)
    browser,
    gradient_job,
    page,
    run,
    saved,
    serving,
    state,
)

from pgn_bench.serve.jobs import of_pack
from pgn_bench.serve.site import PAGE

RELEASE = Path(__file__).with_name("browser_release.mjs")


def test_a_wrong_result_is_told_and_not_timed(page: Page, tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "tiny.pgnpack")
    with serving(tmp_path, gradient_job(tmp_path, error=0.02), of_pack(pack)) as server:
        run(page, server)
        state(page, "Sent.")
        expect(page.locator(".failed")).to_contain_text("wrong result: ")
    result = saved(tmp_path)
    assert [row.provider for row in result.rows] == ["tiny, fitting step"]
    (failed,) = result.settings["failed"]
    assert failed["provider"] == "half way" and "is off by" in failed["reason"]


def test_a_graph_that_the_browser_cannot_run_is_told(page: Page, tmp_path: Path) -> None:
    job = gradient_job(tmp_path)
    job.files["proxy"].write_bytes(b"no graph")
    with serving(tmp_path, job, of_pack(write_pack(tmp_path / "tiny.pgnpack"))) as server:
        run(page, server)
        state(page, "Sent.")
    result = saved(tmp_path)
    assert result.settings["failed"][0]["reason"].startswith("cannot run: ")
    assert len(result.rows) == 1


def test_only_what_is_timed_stays_in_memory(tmp_path: Path) -> None:
    jobs = {name: gradient_job(folder(tmp_path / name)) for name in ("good", "bad", "odd")}
    jobs["bad"].files["target_features"].write_bytes(b"no graph")  # the second that is opened
    jobs["odd"].files["vectors"].write_bytes(b"no tensors")  # both are open when this is read
    jobs["fit"] = of_pack(write_pack(tmp_path / "tiny.pgnpack"))
    plan = [
        {**job.description, "files": {name: str(path) for name, path in job.files.items()}}
        for job in jobs.values()
    ]
    words = ["node", str(RELEASE), str(modules()), json.dumps(plan)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    good, bad, odd, fit = json.loads(done.stdout)
    assert good == {"timed": 1, "left": 0} and fit == {"timed": 2, "left": 0}
    assert bad["error"] and odd["error"] and bad["left"] == odd["left"] == 0


def test_a_file_that_is_gone_is_told_and_the_others_go_on(page: Page, tmp_path: Path) -> None:
    job = gradient_job(tmp_path)
    with serving(tmp_path, job, of_pack(write_pack(tmp_path / "tiny.pgnpack"))) as server:
        job.files["proxy"].unlink()
        run(page, server)
        state(page, "1 of 2 could not be measured.")
    result = saved(tmp_path)
    (failed,) = result.settings["failed"]
    assert "proxy.onnx cannot be read any more" in failed["reason"] and len(result.rows) == 1


@pytest.mark.parametrize("method", ["start", "open", "block"])
def test_a_worker_that_crashes_is_told(page: Page, tmp_path: Path, method: str) -> None:
    source = (PAGE / "worker.js").read_text()
    crash = f'if (data.method === "{method}") setTimeout(() => {{ throw new Error("boom"); }});'
    script = f'{source}\nself.addEventListener("message", ({{ data }}) => {{ {crash} }});'
    page.route(
        "**/worker.js",
        lambda route: route.fulfill(response=route.fetch(), body=script),
    )
    with serving(tmp_path, gradient_job(tmp_path)) as server:
        run(page, server)
        state(page, "1 of 1 could not be measured.")
        expect(page.locator(".failed")).to_contain_text("boom")
    result = saved(tmp_path)
    assert result.rows == []
    (failed,) = result.settings["failed"]
    assert failed["reason"] == "cannot run: the browser's worker has crashed (Uncaught Error: boom)"


def test_a_run_that_the_browser_ends_is_told_and_less_can_be_measured(
    page: Page, tmp_path: Path
) -> None:
    pack = of_pack(write_pack(tmp_path / "tiny.pgnpack"))
    with serving(tmp_path, gradient_job(tmp_path), pack) as server:
        page.route("**/jobs/0/proxy", lambda route: None)  # it never comes
        run(page, server)
        expect(page.locator("#doing")).to_contain_text("half way")
        page.reload()
        state(page, "cut off at: Loading and checking: half way fp32, onnxruntime-web wasm.")
        page.uncheck("#job0")
        page.uncheck("#job1")
        page.click("#start")
        state(page, "Nothing is ticked")
        page.check("#job1")
        page.click("#start")
        state(page, "Sent.")
        page.reload()
        expect(page.locator("#start")).to_be_enabled()
        expect(page.locator("#state")).to_be_empty()
    assert [row.provider for row in saved(tmp_path).rows] == ["tiny, fitting step"]


def folder(path: Path) -> Path:
    path.mkdir()
    return path
