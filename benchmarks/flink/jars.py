"""Flink and Beam's job server, by name and version, each file pinned by its checksum."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess

FOLDER = pathlib.Path(__file__).parents[2] / "kubeflow" / "flink"
POM, PINS = FOLDER / "pom.xml", FOLDER / "jars.sha256"


class NotHereError(Exception):
    """What a cluster takes cannot be had on this machine; the message says what."""


def pinned(pins: str) -> dict[str, str]:
    """Returns the checksums of a file that `sha256sum` wrote, by name."""
    pairs = (line.split(maxsplit=1) for line in pins.splitlines() if line)
    return {name.strip().lstrip("*"): digest for digest, name in pairs}


def wrong(folder: pathlib.Path, pins: dict[str, str]) -> list[str]:
    """Returns what is not as pinned: files that differ, are missing, or are nobody's."""
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jar")
    }
    return sorted(
        name for name in {*found, *pins} if found.get(name, "absent") != pins.get(name, "unknown")
    )


def cache_folder() -> pathlib.Path:
    """The user's folder of the jars as they are pinned now."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    version = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    return pathlib.Path(root) / "steadyrank" / f"flink-{version}"


def fetch() -> pathlib.Path:
    """Gets the jars from Maven Central, once.

    Returns:
        The folder that they are in.

    Raises:
        NotHereError: there is no JVM; or no Maven, or no network for it, and they are not here yet.
        RuntimeError: a file is not the one that is pinned.
    """
    if shutil.which("java") is None:
        raise NotHereError("there is no JVM: install a JRE of Java 17 (`java` has to be found)")
    pins, folder = pinned(PINS.read_text()), cache_folder()
    if folder.exists() and not wrong(folder, pins):
        return folder
    if shutil.which("mvn") is None:
        raise NotHereError("there is no Maven, which gets Flink and Beam's job server (`mvn`)")
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    done = subprocess.run(
        [
            *["mvn", "-B", "-q", "dependency:copy-dependencies", "-f"],
            str(POM),
            f"-DoutputDirectory={part}",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotHereError(f"Maven got no jars: {(done.stdout + done.stderr).strip()[:500]}")
    if differ := wrong(part, pins):
        raise RuntimeError(f"not as pinned in {PINS}: {', '.join(differ)}")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder
