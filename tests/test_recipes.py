"""Recipes: the shipped ones are valid, a user's are checked setting by setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn import PgnError
from pgn.distill import recipes
from pgn.distill.options import DistillOptions


@pytest.mark.parametrize("name", recipes.NAMES)
def test_shipped_recipes_are_valid_and_round_trip(name: str, tmp_path: Path) -> None:
    options = DistillOptions("photos", Path("run"), **recipes.read(name))
    text = recipes.to_toml(options).splitlines()
    written = tmp_path / "again.toml"
    written.write_text("\n".join(line for line in text if not line.startswith(("data", "output"))))
    assert DistillOptions("photos", Path("run"), **recipes.read(str(written))) == options


def test_the_papers_recipes_are_the_published_ones() -> None:
    epochs = {"paper-resnet4": 330, "paper-resnet6": 400, "paper-resnet8": 1000, "paper-unet": 2140}
    for name, count in epochs.items():
        options = DistillOptions("photos", Path("run"), **recipes.read(name))
        assert options.images == count * 512 * 48 * 8 and options.world_batch == 384
        assert (options.optimiser, options.head, options.crop) == ("adam", "constrained", 224)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch = 'many'", "batch: got 'many', expected a whole number"),
        ("batch = true", "batch: got True, expected a whole number"),
        ("learning_rate = [1]", "learning_rate: got"),
        ("widths = [[1, 'a']]", "widths: got"),
        ("layers = {relu1_1 = 'a'}", "layers: got"),
        ("bacth = 3", "Did you mean 'batch'"),
        ("data = 'x'", "setting.*data"),
        ("batch =", "is no TOML"),
    ],
)
def test_recipes_are_validated(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(PgnError, match=message):
        recipes.read(str(path))


def test_settings_of_the_command_line() -> None:
    assert recipes.setting("learning_rate=1e-3") == ("learning_rate", 1e-3)
    assert recipes.setting("widths=[[8], [16]]") == ("widths", [[8], [16]])
    assert recipes.setting("teacher=vgg16") == ("teacher", "vgg16")
    with pytest.raises(PgnError, match="expected key=value"):
        recipes.setting("batch")
    with pytest.raises(PgnError, match="Did you mean 'lite-cpu'"):
        recipes.read("lite-cpv")
