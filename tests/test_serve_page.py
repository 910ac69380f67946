"""The page of `pgn-bench serve`, in Chromium at a phone's size: figures arrive, or are kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import onnx
import pytest
import torch
from packs import write_pack
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright
from test_browser_pack import modules

from pgn_bench import results, web
from pgn_bench.serve.jobs import Job, of_pack
from pgn_bench.serve.server import Server
from pgn_bench.serve.site import Site
from pgn_export import vectors
from pgn_export.parity import DISTANCES, Case, generated_and_target

SIDE = 32
PHONE: ViewportSize = {"width": 390, "height": 844}
SETTINGS = {"rounds": 2, "block": 3, "warm_up": 1, "noisy": 1.3, "command": "pgn-bench serve"}
SCREENSHOTS = os.environ.get("PGN_SCREENSHOTS")  # a folder, to look at the page
SOFTWARE_GPU = [
    "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan",
]  # fmt: skip
WITHOUT_GPU = "Object.defineProperty(Navigator.prototype, 'gpu', {value: undefined})"

_IMAGE = f"float[1,3,{SIDE},{SIDE}]"
_HEAD = '<ir_version: 8, opset_import: ["" : 18]>'
GRAPHS = {
    "proxy": f"""proxy ({_IMAGE} generated, {_IMAGE} features_0) => ({_IMAGE} proxy) {{
        half = Constant <value = float[1] {{0.5}}> ()
        near = Mul (generated, half)
        proxy = Add (near, features_0)
    }}""",
    "target_features": f"""features ({_IMAGE} target) => ({_IMAGE} features_0) {{
        half = Constant <value = float[1] {{0.5}}> ()
        features_0 = Mul (target, half)
    }}""",
}


def gradient_job(folder: Path, error: float = 0.0) -> Job:
    """A network that goes half the way to the target; `error` is that of its expected proxies."""
    files = {name: folder / f"{name}.onnx" for name in GRAPHS}
    for name, path in files.items():
        onnx.save(onnx.parser.parse_model(f"{_HEAD} {GRAPHS[name]}"), path)
    generator = torch.Generator().manual_seed(0)
    cases = []
    for distance, share in DISTANCES.items():
        shape = (2, 1, 3, SIDE, SIDE)
        target, blurred = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        generated, sharp = generated_and_target(share, target, blurred)
        cases.append(Case(distance, share, target, blurred, (generated + sharp) / 2 + error))
    files["vectors"] = folder / "vectors.safetensors"
    vectors.save(cases, files["vectors"])
    description = {
        "kind": "gradient", "provider": "half way", "dtype": "fp32", "size": SIDE, "batch": 1,
        "alpha": 40.0, "graphs": list(GRAPHS), "file_bytes": 1000,
        "limits": dict.fromkeys(DISTANCES, 0.01),
    }  # fmt: skip
    return Job(description, files)


@contextmanager
def serving(folder: Path, *jobs: Job, host: str = "127.0.0.1") -> Iterator[Server]:
    runtime = web.unpacked(modules() / "node_modules" / web.PACKAGE)
    site = Site(list(jobs), runtime, SETTINGS, folder / "results")
    with Server(site, host, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    modules()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=SOFTWARE_GPU)
        yield launched
        launched.close()


@pytest.fixture(params=["light"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A phone's, light, dark, or with a GPU; raises what the page's scripts do not catch."""
    context = browser.new_context(
        viewport=PHONE,
        is_mobile=True,
        device_scale_factor=2,
        color_scheme="dark" if request.param == "dark" else "light",
        ignore_https_errors=True,
    )
    if request.param != "gpu":
        context.add_init_script(WITHOUT_GPU)
    page = context.new_page()
    raised: list[str] = []
    page.on("pageerror", lambda error: raised.append(str(error)))
    yield page
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{request.node.name}.png", full_page=True)
    context.close()
    assert raised == []


def run(page: Page, server: Server) -> None:
    page.goto(server.address)
    page.click("#start")


def state(page: Page, words: str) -> None:
    expect(page.locator("#state")).to_contain_text(words, timeout=60_000)


def saved(folder: Path) -> results.Result:
    (path,) = (folder / "results").iterdir()
    return results.load(path)


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_figures_arrive_and_are_written(page: Page, tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "tiny.pgnpack", microbatch=2)
    with serving(tmp_path, gradient_job(tmp_path), of_pack(pack)) as server:
        run(page, server)
        state(page, "Sent.")
        wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"]
    result = saved(tmp_path)
    assert [row.provider for row in result.rows] == ["half way", "tiny, fitting step"]
    for row in result.rows:
        assert row.runtime == "onnxruntime-web wasm" and row.calls == 6
        assert max(row.details["relative_l2"].values()) < 1e-4
    assert result.settings["failed"] == []
    assert result.settings["without"] == {"webgpu": "this browser has none"}
    assert result.machine["isolated"] is True
    assert "Mozilla" in result.machine["user_agent"] and result.machine["cores"] >= 1
    assert result.machine["onnxruntime-web"] == "1.30.0"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["gpu"], indirect=True)
def test_a_gpu_computes_the_same(page: Page, tmp_path: Path) -> None:
    """In software: Chromium's SwiftShader."""
    pack = write_pack(tmp_path / "tiny.pgnpack")
    with serving(tmp_path, gradient_job(tmp_path), of_pack(pack)) as server:
        page.goto(server.address)
        expect(page.locator("#start")).to_be_enabled(timeout=30_000)
        if page.locator("#webgpu").count() == 0:
            pytest.skip("this Chromium has no GPU in software")
        page.uncheck("#wasm")
        page.click("#start")
        state(page, "Sent.")
    result = saved(tmp_path)
    assert result.settings["failed"] == [] and result.machine["webgpu"] is not None
    assert {row.runtime for row in result.rows} == {"onnxruntime-web webgpu"}
    assert {row.device for row in result.rows} == {"gpu"} and len(result.rows) == 2


def test_figures_wait_while_the_server_is_away(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path, gradient_job(tmp_path)) as server:
        page.goto(server.address)
        page.route("**/results", lambda route: route.abort())
        page.click("#start")
        state(page, "The figures are kept on this device.")
        with page.expect_download() as download:
            page.click("#save")
        assert json.loads(Path(download.value.path()).read_text())["kind"] == "browser"
        page.reload()
        state(page, "Figures of an earlier run wait")
        kept = "localStorage.getItem('pgn-bench result')"
        before = page.evaluate(kept)
        page.click("#start")  # new figures would take the place of those
        state(page, "The figures are kept on this device.")
        expect(page.locator("#setup")).to_be_visible(timeout=30_000)
        assert page.evaluate(kept) == before
        page.unroute("**/results")
        page.dblclick("#send")
        state(page, "Sent.")
        expect(page.locator("#rescue")).to_be_hidden()
        page.reload()
        expect(page.locator("#start")).to_be_enabled()
        expect(page.locator("#rescue")).to_be_hidden()
    assert saved(tmp_path).rows[0].provider == "half way"


def test_a_connection_lost_while_models_load_is_told(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path, gradient_job(tmp_path)) as server:
        page.goto(server.address)
        expect(page.locator("#start")).to_be_enabled()
        page.context.set_offline(True)
        page.click("#start")
        state(page, "This run could not be finished.")
        page.context.set_offline(False)
        page.click("#start")
        state(page, "Sent.")


def test_in_a_network_the_page_is_secure_too(page: Page, tmp_path: Path) -> None:
    """Without, no phone would have threads."""
    with serving(tmp_path, gradient_job(tmp_path), host="0.0.0.0") as server:
        assert server.address.startswith("https://") and "0.0.0.0" not in server.address
        run(page, server)
        state(page, "Sent.")
    assert saved(tmp_path).machine["isolated"] is True
