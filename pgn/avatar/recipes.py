"""The recipes of meta-training: TOML files of `AvatarOptions`."""

from __future__ import annotations

from importlib import resources

from pgn.avatar.options import AvatarOptions
from pgn.distill.settings import Recipes

RECIPES = Recipes(AvatarOptions, resources.files("pgn.avatar") / "recipes")
