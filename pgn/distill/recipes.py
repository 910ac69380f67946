"""The recipes of distillation: TOML files of `DistillOptions`."""

from __future__ import annotations

from importlib import resources

from pgn.distill.options import DistillOptions
from pgn.distill.settings import Recipes, to_toml

_RECIPES = Recipes(DistillOptions, resources.files("pgn.distill") / "recipes")
NAMES = _RECIPES.names
read = _RECIPES.read
resolve = _RECIPES.resolve
setting = _RECIPES.setting

__all__ = ["NAMES", "read", "resolve", "setting", "to_toml"]
