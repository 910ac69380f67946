"""The folder of a study: its settings, and a JSON record of each piece of work, none ever lost.

Every file is written by rename; a study that was interrupted goes on with what is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgn.errors import PgnError
from pgn.files import atomic_path, first_line

Record = dict[str, Any]


class Study:
    """A study in `folder`; `summary_name` holds its settings, and its results at the end."""

    def __init__(self, folder: Path, summary_name: str, settings: Mapping[str, Any]) -> None:
        """Open or begin a study.

        Raises:
            PgnError: the folder holds one with other settings, or cannot be written.
        """
        self.folder = folder
        self.settings = dict(settings)
        self.summary_path = folder / summary_name
        if self.summary_path.exists():
            self._check_settings()
        else:
            write_record(self.summary_path, {"settings": self.settings})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary beside the settings."""
        write_record(self.summary_path, {"settings": self.settings, **summary})

    def _check_settings(self) -> None:
        before = read_record(self.summary_path).get("settings")
        if before == self.settings:
            return
        known = before if isinstance(before, dict) else {}
        changed = [key for key, value in self.settings.items() if known.get(key) != value]
        raise PgnError(
            f"--output: {self.summary_path} was made with other settings ({', '.join(changed)}: "
            f"{'; '.join(str(known.get(key)) for key in changed)}). Use the same, or another "
            f"folder."
        )


def read_record(path: Path) -> Record:
    """What a JSON file holds; nothing where that is no object.

    Raises:
        PgnError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PgnError(
            f"--output: {path} cannot be read ({first_line(error)}). Delete it to make it again."
        ) from None
    return found if isinstance(found, dict) else {}


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as JSON, by rename."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False), encoding="utf-8")


def check_maker(path: Path, record: Record, run: str, maker: Record) -> None:
    """See that a run's record was made by `maker`, what its name does not tell.

    Raises:
        PgnError: by another.
    """
    if record["made_by"] != maker:
        raise PgnError(
            f"--checkpoint: {path} was made by another checkpoint than this {run}. Rename the new "
            f"one, or use another folder."
        )


def file_sha256(path: Path) -> str:
    """Of a whole file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
