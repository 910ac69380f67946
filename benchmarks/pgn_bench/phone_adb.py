"""An Android phone on adb: shell commands, files, and what it says of itself."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pgn import PgnError

SECONDS = 60.0  # of a command that measures nothing
STATES = {  # as `adb devices` calls them, and the way out
    "offline": "Unplug it and plug it in again, or run: adb reconnect",
    "unauthorized": "Unlock it and allow USB debugging for this computer.",
    "no permissions": "Give this user access to USB devices (udev rules), or try another cable.",
}
TIMED_OUT = 124  # exit code of the phone's `timeout`
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


class ShellError(PgnError):
    """A command on the phone failed, and the phone is still there."""


@dataclass(frozen=True)
class Phone:
    """A phone that is ready for commands."""

    adb: str
    serial: str

    def shell(self, line: str, seconds: float = SECONDS) -> str:
        """What a line of the phone's shell prints, stderr included.

        Raises:
            ShellError: it failed, or took longer than `seconds`.
            PgnError: the phone is gone.
        """
        return self._run(line, ["shell", f"{{ {line}; }} 2>&1"], seconds)

    def push(self, file: Path, remote: str) -> None:
        """Copy a file; errors as `shell`."""
        self._run(f"push {file.name}", ["push", str(file.resolve()), remote], 10 * SECONDS)

    def _run(self, name: str, words: list[str], seconds: float) -> str:
        try:
            code, text = _adb(self.adb, ["-s", self.serial, *words], seconds)
        except subprocess.TimeoutExpired:
            code, text = TIMED_OUT, ""
        if code == TIMED_OUT:
            self._check()
            raise ShellError(f"phone: '{name:.80}' took too long, and was ended.")
        if code:
            self._check()
            raise ShellError(f"phone: '{name:.80}' failed with code {code}: {last_lines(text)}")
        return text

    def _check(self) -> None:
        """Raises PgnError where the phone is gone."""
        try:
            state = _devices(self.adb).get(self.serial, "gone")
        except subprocess.TimeoutExpired:
            state = "silent"
        if state != "device":
            raise PgnError(
                f"phone: {self.serial} was lost in the middle of the work ({state}). Check the "
                f"cable, and start again."
            )


def last_lines(text: str) -> str:
    """The end of what a program printed, in one line, to say why it failed."""
    return f"{' / '.join(text.strip().splitlines()[-3:]) or 'nothing was printed':.400}"


def connect(adb: str, serial: str | None) -> Phone:
    """The phone of that serial number; the only one, if none is given.

    Raises:
        PgnError: no adb; no such phone, or several to choose from; it is not ready.
    """
    try:
        states = _devices(adb)
    except subprocess.TimeoutExpired:
        raise PgnError("adb: no answer within a minute. Run: adb kill-server") from None
    found = ", ".join(f"{name} ({state})" for name, state in states.items()) or "none"
    if serial is None and len(states) != 1:
        raise PgnError(
            f"--adb: expected the serial number of one phone, found: {found}. Plug it in with USB "
            f"debugging on, and name it: --adb SERIAL"
        )
    chosen = serial or next(iter(states))
    if chosen not in states:
        raise PgnError(f"--adb: got '{chosen}', found: {found}. Take one of those.")
    if (state := states[chosen]) != "device":
        hint = STATES.get(state, "Start Android on it.")
        raise PgnError(f"phone: {chosen} is not ready: {state}. {hint}")
    return Phone(adb, chosen)


def describe(phone: Phone) -> dict[str, object]:
    """Model, SoC, cores and Android version, under the names that machines have in results."""
    found = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]\r?$", phone.shell("getprop"), re.MULTILINE))

    def first(*names: str) -> str:
        return next((found[name] for name in names if found.get(name)), "unknown")

    model = f"{first('ro.product.manufacturer')} {first('ro.product.model')}"
    soc = first("ro.soc.model", "ro.board.platform", "ro.hardware")
    cores = phone.shell("nproc").strip()
    return {
        "processor": f"{model}, {soc}",
        "model": model,
        "soc": soc,
        "cores": int(cores) if cores.isdecimal() else None,
        "system": f"Android {first('ro.build.version.release')}",
        "abi": first("ro.product.cpu.abi"),
    }


def thermal_status(phone: Phone) -> str | None:
    """One of THERMAL; None before Android 10, which does not tell."""
    try:
        printed = phone.shell("dumpsys thermalservice")
    except ShellError:
        return None
    found = re.search(r"Thermal Status: (\d)", printed)
    return THERMAL[min(int(found[1]), len(THERMAL) - 1)] if found else None


def _devices(adb: str) -> dict[str, str]:
    """State by serial number, of all that are plugged in."""
    code, text = _adb(adb, ["devices"], SECONDS)
    if code:
        raise PgnError(f"adb: 'adb devices' failed with code {code}: {text.strip():.300}")
    pairs = re.findall(r"^(\S+)\t(no permissions|\S+)", text, re.MULTILINE)
    return dict(pairs)


def _adb(adb: str, words: list[str], seconds: float) -> tuple[int, str]:
    """Exit code, and all that was printed.

    Raises:
        PgnError: there is no such program.
        subprocess.TimeoutExpired: it takes longer.
    """
    try:
        done = subprocess.run(
            [adb, *words],
            stdin=subprocess.DEVNULL,  # adb shell would eat that of the command
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except OSError as error:
        raise PgnError(
            f"adb: {adb} cannot be run ({error.strerror}). Install Android's platform-tools, or "
            f"name the program: --adb-path PATH"
        ) from None
    return done.returncode, done.stdout.decode(errors="replace")
