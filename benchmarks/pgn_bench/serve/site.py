"""What the server gives: a fixed table of files; and takes: checked results, into one folder."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from pgn import PgnError
from pgn_bench import results
from pgn_bench.serve.jobs import Job
from pgn_bench.web import FILES, WebRuntime

PAGE = Path(__file__).parent / "page"
PLAN = "plan.json"  # what the page reads first
MAX_RESULTS = 1000  # files that one run writes


@dataclass
class Site:
    """One run of `pgn-bench serve`; every address begins with its secret token."""

    jobs: list[Job]
    runtime: WebRuntime
    settings: Mapping[str, Any]  # how to measure: what the page reads beside the jobs
    output: Path  # folder of the results
    on_result: Callable[[Path], None] = lambda path: None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    saved: set[Path] = field(default_factory=set)
    refused: int = 0  # posts
    _lock: Lock = field(default_factory=Lock)  # a phone is a thread

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every file by its address behind the token; there are no others."""
        page = {path.name: path for path in PAGE.iterdir() if path.suffix in (".css", ".js")}
        builds = {f"ort/{name}": self.runtime.folder / "dist" / name for name in FILES}
        models = {
            address: job.files[name]
            for job, addresses in zip(self.jobs, self._addresses, strict=True)
            for name, address in addresses.items()
        }
        return {"": PAGE / "index.html", **page, **builds, **models}

    @cached_property
    def plan(self) -> bytes:
        """The plan, in JSON: the settings, and the jobs with the addresses of their files."""
        jobs = [
            {**job.description, "files": addresses}
            for job, addresses in zip(self.jobs, self._addresses, strict=True)
        ]
        plan = {**self.settings, "runtime_version": self.runtime.version, "jobs": jobs}
        return json.dumps(plan).encode()

    @cached_property
    def _addresses(self) -> list[dict[str, str]]:
        return [
            {name: f"jobs/{index}/{name}" for name in job.files}
            for index, job in enumerate(self.jobs)
        ]

    def refuse(self) -> None:
        """Count a post that is not taken."""
        with self._lock:
            self.refused += 1

    def receive(self, content: bytes) -> Path:
        """Write what a page measured; the same figures, sent again, are the same file.

        Raises:
            PgnError: they are no result of a browser; the folder is full.
        """
        try:
            with self._lock:
                path = self._write(content)
                self.saved.add(path)
        except PgnError:
            self.refuse()
            raise
        self.on_result(path)
        return path

    def _write(self, content: bytes) -> Path:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise PgnError("result: what came is no JSON.") from None
        result = results.parse(value, "what came")
        if result.kind != "browser":
            raise PgnError(f"result: got one of kind '{result.kind}', expected browser.")
        path = self.output / f"browser-{hashlib.sha256(content).hexdigest()[:12]}.json"
        if len(self.saved | {path}) > MAX_RESULTS:
            raise PgnError(f"result: {MAX_RESULTS} came already. Start the server again.")
        results.save(result, path)
        return path
