"""What converters print is kept out of the way, and said when they fail."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pgn import ConversionError, MissingExtraError
from pgn.files import atomic_path, first_line
from pgn_runtime.errors import MissingBackendError


@contextlib.contextmanager
def failures(target: str, folder: Path) -> Iterator[None]:
    """Keep the converter's chatter out of the way; say it, and what failed, if it fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            with _redirected(log.fileno()):
                yield
        except (MissingExtraError, ConversionError):
            raise
        except MissingBackendError as error:
            raise MissingExtraError(error.package, "export") from None
        except Exception as error:  # converters raise anything
            log.seek(0)
            text = f"{log.read()}\n{type(error).__name__}: {error}\n"
            note = folder / f"{target}.log"
            with atomic_path(note) as temporary:  # never through a link that lies there
                temporary.write_text(text, encoding="utf-8")
            raise ConversionError(
                f"{target}: {type(error).__name__}: {first_line(error)} "
                f"The converter's words are in {note}."
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Say nothing of what Python and native code print."""
    with tempfile.TemporaryFile() as nowhere, _redirected(nowhere.fileno()):
        yield


@contextlib.contextmanager
def _redirected(descriptor: int) -> Iterator[None]:
    """Send what Python and native code print to `descriptor`."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(stream, os.dup(stream)) for stream in (1, 2)]
    try:
        for stream, _ in saved:
            os.dup2(descriptor, stream)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in saved:
            os.dup2(copy, stream)
            os.close(copy)
