"""Code of users, named on the command line as `module:callable`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgn.errors import PgnError, unknown_name
from pgn.files import first_line


def import_callable(kind: str, spec: str) -> Callable[..., Any]:
    """What `module:callable` names; the module is installed or lies in the current folder.

    Args:
        kind: what it is to be, for messages: teacher, generator.

    Raises:
        PgnError: no such module or callable, or the import raises.
    """
    module_name, name = spec.split(":", 1)
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # as `python -m` does; it stays, for imports inside functions
    place = f"Expected module:callable, with a module that is installed or lies in {folder}."
    with blame(kind, f"import of {module_name}", place):
        module = importlib.import_module(module_name)
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if _may_be_meant(key, value)]
        raise unknown_name(f"{kind}: callable of {module_name}", name, known)
    named: Callable[..., Any] = found
    return named


@contextmanager
def blame(kind: str, name: str, expected: str) -> Iterator[None]:
    """Turn what other people's code raises into one line under its name."""
    try:
        yield
    except PgnError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        # the cause stays for those who debug their function in Python; commands print one line
        raise PgnError(f"{kind}: {name} raised {reason}. {expected}") from error


def _may_be_meant(name: str, value: object) -> bool:
    return callable(value) and not isinstance(value, type) and not name.startswith("_")
