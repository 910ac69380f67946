"""LPIPS as a metric of studies: both networks from a folder of weights, or from the package."""

from __future__ import annotations

from pathlib import Path

from pgn.errors import PgnError
from pgn.teachers import PerceptualLoss

LPIPS_FILES = {"lpips-alex": "lpips_alex*.safetensors", "lpips-vgg": "lpips_vgg*.safetensors"}


def load_lpips_metrics(folder: Path | None) -> tuple[dict[str, PerceptualLoss], str]:
    """The metrics by name; or none, and why: no folder was given and no package is here.

    Raises:
        PgnError: the folder has no such files.
    """
    if folder is not None:
        return {name: _from_file(name, folder) for name in LPIPS_FILES}, ""
    try:
        return {name: PerceptualLoss(name) for name in LPIPS_FILES}, ""
    except PgnError as error:
        return {}, (
            f"LPIPS is left out. {error} Or: --lpips FOLDER that holds "
            f"{' and '.join(LPIPS_FILES.values())}; given later, no fit is made again."
        )


def _from_file(name: str, folder: Path) -> PerceptualLoss:
    files = sorted(folder.glob(LPIPS_FILES[name]))
    if not files:
        raise PgnError(f"--lpips: {folder} holds no {LPIPS_FILES[name]}, the weights of {name}.")
    return PerceptualLoss(name, files[0])
