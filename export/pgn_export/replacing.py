"""Files and folders (.mlpackage) put in place of older ones, so that one of both is whole."""

from __future__ import annotations

import shutil
from pathlib import Path


def move(source: Path, final: Path) -> None:
    """Move `source` to `final`; a folder there is first moved aside, beside `source`."""
    if final.is_dir():
        final.replace(source.with_name(f"old-{final.name}"))  # goes with the temporary folder
    source.replace(final)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
