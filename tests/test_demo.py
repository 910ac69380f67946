"""The demo's parts that need no export; all of it runs in test_bench.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgn.degrade import blur, to_pil
from pgn_bench.demo import __main__ as demo
from pgn_bench.demo.person import Person


def test_a_fit_in_torch_has_a_folder_of_a_plain_name(tmp_path: Path, photo: Tensor) -> None:
    to_pil(photo[0]).save(tmp_path / "target.png")
    to_pil(blur(photo[0], 4.0)).save(tmp_path / "start.png")

    def judge(images: Tensor) -> list[float]:
        return [float(each) for each in (images - photo).square().mean((1, 2, 3))]

    run = demo._fit_in_torch("VGG-19, exact, in PyTorch", tmp_path, judge, torch.zeros_like)
    assert run.folder == tmp_path / "VGG-19" and (run.folder / "result.png").is_file()
    assert run.vgg19[-1] < 0.1 * run.vgg19[0] and run.steps[-1] == demo.OPTIONS.steps


def test_the_terminal_explains_mse_as_the_page_does(
    tmp_path: Path, photo: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = ("start", "target", "proxy", "result")
    for name in pictures:
        to_pil(photo[0]).save(tmp_path / f"{name}.png")
    (tmp_path / "manifest.json").write_text('{"artifacts": {}}', encoding="utf-8")
    run = demo.Run("MSE alone", tmp_path, 0.1, [0, 10], [2.967, 0.005])
    demo._show(tmp_path, [run], tmp_path, Person(8, {}, 50, 30.0, 240.0, 0.01, 0.004))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for shown in (capsys.readouterr().out, page):
        assert demo.FREE_PIXELS in " ".join(shown.split())
