"""The folder of a study: its settings, and of each fit a record and pictures, none ever lost.

Every file is written by rename; a study that was interrupted goes on with what is there. A fit is
that of a run, which has a loss, to a case: a photo, or a person.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pgn.degrade import to_pil
from pgn.errors import PgnError
from pgn.files import atomic_path, first_line
from pgn.model import PGN

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

    def picture(self, case: str, name: str) -> Path:
        """Where a picture of a case lies: of a run, or of the truth."""
        return self.folder / case / f"{name}.png"

    def draw(self, case: str, name: str, image: Tensor) -> None:
        """Write a picture (3, H, W), cut to [0, 1]."""
        with atomic_path(self.picture(case, name)) as temporary:
            to_pil(image).save(temporary, "PNG")

    def load(
        self,
        case: str,
        run: str,
        pictures: Sequence[str],
        is_whole: Callable[[Record], bool],
        made_by: Record,
    ) -> Record | None:
        """A fit's record, or None where it or one of its `pictures` is still to be made.

        Args:
            is_whole: whether a record has all its figures.
            made_by: what a run's name does not tell, and the record must.

        Raises:
            PgnError: the record is damaged, or another checkpoint's.
        """
        path = self._record(case, run)
        files = (path, *(self.picture(case, name) for name in pictures))
        if not all(file.exists() for file in files):
            return None
        record = read_record(path)
        if "made_by" not in record or not is_whole(record):
            raise damaged(path)
        if record["made_by"] != made_by:
            raise PgnError(
                f"--output: {path} was made by another checkpoint than this {run}. Rename the new "
                f"one, or use another folder."
            )
        return record

    def store(self, case: str, run: str, record: Record) -> None:
        """Write a fit's record; its pictures must be there already."""
        write_record(self._record(case, run), record)

    def _record(self, case: str, run: str) -> Path:
        return self.folder / case / f"{run}.json"

    def _check_settings(self) -> None:
        before = read_record(self.summary_path).get("settings")
        if before == self.settings:
            return
        known = before if isinstance(before, dict) else {}
        keys = known.keys() | self.settings.keys()
        changed = sorted(key for key in keys if known.get(key) != self.settings.get(key))
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


def damaged(path: Path) -> PgnError:
    """Of a record that does not hold what it should."""
    return PgnError(f"--output: {path} is damaged. Delete it to make it again.")


def is_number(value: Any) -> bool:
    """Is it a finite number, as all figures of a record are?"""
    return isinstance(value, (int, float)) and math.isfinite(value)


def checkpoint_of(net: PGN | None) -> Record:
    """Which network a run had, by its weights; nothing for a run without one.

    Not by its file: that changes with every figure which is recorded in it.
    """
    if net is None:
        return {}
    weights = fingerprint(net.state_dict().values())
    return {"network_sha256": hashlib.sha256(f"{net.config} {weights}".encode()).hexdigest()}


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of their values, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Of a whole file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
