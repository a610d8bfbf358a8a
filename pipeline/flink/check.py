"""Looks, before a run begins, whether Beam's workers elsewhere can do its work.

Without it a worker that lacks the project, or cannot see its files, is found in the middle of a
run, and one that never starts keeps the run waiting for ever.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import urllib.request
import uuid
from collections.abc import Mapping, Sequence

from pipeline.failure import failure_of
from pipeline.flink.settings import CLUSTER
from schemas.errors import RankerError

PACKAGES = ("steadyrank", "apache-beam", "tensorflow", "tfx-bsl")
"""Packages whose version has to be the same here and where the workers are."""

_PORTABLE_RUNNERS = ("PortableRunner", "FlinkRunner")
_DEFAULTS = (
    # Within a job a worker lives on from stage to stage, its imports and its model with it. It
    # lives as long after the job, and the next one's workers start beside it: no longer than this.
    "--environment_cache_millis=60000",
    # Otherwise a side input is fetched anew for each bundle.
    "--max_cache_memory_usage_mb=100",
    # No worker is started from it: they have the code. TFX would pack its own for each component.
    "--sdk_container_image=none",
)
_SAYS_WHERE_THE_CODE_IS = {"--setup_file", "--extra_package", "--requirements_file"}
_ANSWER_SECONDS = 300
_PROBES_PER_WORKER = 4


def with_defaults(beam_args: Sequence[str]) -> tuple[str, ...]:
    """Returns the Beam options with what a portable runner wants said, where it is not."""
    if not _portable(beam_args):
        return tuple(beam_args)
    said = {arg.partition("=")[0] for arg in beam_args}
    if said & _SAYS_WHERE_THE_CODE_IS or _option(beam_args, "--environment_type", "") not in (
        "EXTERNAL",
        "PROCESS",
    ):
        said.add("--sdk_container_image")
    return (*beam_args, *(arg for arg in _DEFAULTS if arg.partition("=")[0] not in said))


def check_workers(beam_args: Sequence[str], folder: str, seconds: float = _ANSWER_SECONDS) -> bool:
    """Has the workers answer a small job.

    Args:
        beam_args: options of the Beam pipelines.
        folder: where a run writes, which the workers have to see, too; exists.
        seconds: to wait for the answer.

    Returns:
        Whether they did; False where the runner is not a portable one, and there are none.

    Raises:
        RankerError: no worker answers, or one is not as it has to be.
    """
    if not _portable(beam_args):
        return False
    import apache_beam as beam
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineState

    token = os.path.join(folder, f".workers-{uuid.uuid4().hex}")
    FileSystems.create(token).close()
    pipeline = beam.Pipeline(options=PipelineOptions(list(beam_args)))
    probes = _PROBES_PER_WORKER * _parallelism(beam_args)
    _ = pipeline | beam.Create(range(probes)) | beam.Reshuffle() | beam.Map(answer, token)
    try:
        job = pipeline.run()
        job.wait_until_finish(int(seconds * 1000))
        if job.state != PipelineState.DONE:
            job.cancel()
            raise RankerError(
                f"no worker of Beam answered within {seconds:.0f} s. Look whether Flink's workers "
                "are there and have a free slot (the job's --parallelism asks for so many), and "
                "into the log of the pool beside them: its Python has to have Beam and this project"
            )
        check_answers(token, probes, versions())
    except RankerError:
        raise
    except Exception as error:
        raise RankerError(
            f"a small job does not run with these Beam options: {failure_of(error)}. "
            "Look whether --job_endpoint is where Beam's job server listens, and into its log"
        ) from error
    finally:
        FileSystems.delete([token, *_answers(token)])
    return True


def versions() -> dict[str, str]:
    """Versions that have to be the same for what one process pickles to mean the same elsewhere."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def answer(number: int, token: str) -> None:
    """Writes a worker's versions beside the sender's file, if the worker sees that.

    Args:
        number: of the answer.
        token: the sender's file.
    """
    from apache_beam.io.filesystems import FileSystems

    if FileSystems.exists(token):
        with FileSystems.create(f"{token}-{number}") as file:
            file.write(json.dumps(versions()).encode())


def _answers(token: str) -> list[str]:
    from apache_beam.io.filesystems import FileSystems

    (found,) = FileSystems.match([f"{token}-*"])
    return [metadata.path for metadata in found.metadata_list]


def check_answers(token: str, count: int, expected: Mapping[str, str]) -> None:
    """Reads what workers answered.

    Args:
        token: the sender's file.
        count: how many there should be.
        expected: the versions that they should have.

    Raises:
        RankerError: a worker has other versions, or one did not see the folder.
    """
    from apache_beam.io.filesystems import FileSystems

    answers = _answers(token)
    for path in answers:
        with FileSystems.open(path) as file:
            there = json.loads(file.read())
        differ = [
            f"{name} {there.get(name, 'none')} (here {version})"
            for name, version in expected.items()
            if there.get(name, "none") != version
        ]
        if differ:
            raise RankerError(f"a worker of Beam has {', '.join(differ)}; give it the same image")
    if len(answers) < count:
        raise RankerError(
            f"a worker of Beam does not see {os.path.dirname(token)}: mount it there under the "
            "same path, or use a bucket"
        )


def check_cluster(url: str) -> list[str]:
    """Asks a Flink cluster how it is set.

    Args:
        url: of the JobManager's REST, e.g. http://jobmanager:8081.

    Returns:
        What to set otherwise; empty if all is well.

    Raises:
        RankerError: it does not answer.
    """
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/jobmanager/config", timeout=10) as answer:
            pairs = json.load(answer)
    except (OSError, ValueError) as error:
        raise RankerError(f"{url}: no JobManager of Flink answers there ({error})") from error
    return advice({pair["key"]: pair["value"] for pair in pairs})


def advice(settings: Mapping[str, str]) -> list[str]:
    """Says which settings of a Flink cluster to change, and why.

    Args:
        settings: those that the cluster was given, by Flink's names.
    """
    found = []

    def give(why: str, *names: str) -> None:
        wanted = ", ".join(f"{name}: {CLUSTER[name]}" for name in names)
        found.append(f"set {wanted} ({why})")

    restart = "restart-strategy.type"
    fixed = "restart-strategy.fixed-delay"
    if settings.get(restart, "none") in ("none", "off", "disable"):
        give("a worker that is lost ends the job", restart, f"{fixed}.attempts", f"{fixed}.delay")
    elif settings[restart] in ("fixed-delay", "fixeddelay"):
        tries = int(settings.get(f"{fixed}.attempts", "1"))
        lasts = tries * _milliseconds(settings.get(f"{fixed}.delay", "1 s"))
        noticed = _milliseconds(settings.get("heartbeat.timeout", "50000"))
        if lasts <= noticed:
            give(
                f"{tries} tries end after {lasts / 1000:.0f} s, and a lost worker is noticed after "
                f"{noticed / 1000:.0f} s",
                f"{fixed}.attempts",
                f"{fixed}.delay",
            )
    order = "classloader.resolve-order"
    if settings.get(order) != CLUSTER[order]:
        give("workers of Beam start anew for each stage; Flink needs Beam's jars in lib/", order)
    buffers = "taskmanager.network.sort-shuffle.min-buffers"
    memory = "taskmanager.memory.network.max"
    if int(settings.get(buffers, "512")) > int(CLUSTER[buffers]):
        give("else a TaskManager runs out of network buffers", buffers)
    if _bytes(settings.get(memory, "64m")) < _bytes(CLUSTER[memory]):
        give("else a TaskManager runs out of network buffers", memory)
    return found


def _milliseconds(text: str) -> float:
    """Reads a duration of Flink's, such as `10 s`, `2 minutes` or `5000`."""
    number, unit = _quantity(text)
    scales = {"d": 864e5, "h": 36e5, "mi": 1, "min": 6e4, "ms": 1, "m": 6e4, "s": 1e3, "": 1}
    # Its names of a unit are told apart by their first letters: milli, min, minute, ms, m.
    return number * next(scales[unit[:n]] for n in (3, 2, 1, 0) if unit[:n] in scales)


def _bytes(text: str) -> float:
    """Reads a size of Flink's, such as `128m`, `1 gb` or `134217728 bytes`."""
    number, unit = _quantity(text)
    return number * 1024 ** " kmgt".index((unit[:1] or " ").replace("b", " "))


def _quantity(text: str) -> tuple[float, str]:
    number, unit = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", text.lower()).groups()  # type: ignore[union-attr]
    return float(number), unit


def _portable(beam_args: Sequence[str]) -> bool:
    return _option(beam_args, "--runner", "") in _PORTABLE_RUNNERS


def _parallelism(beam_args: Sequence[str]) -> int:
    return max(1, int(_option(beam_args, "--parallelism", "1")))


def _option(beam_args: Sequence[str], name: str, default: str) -> str:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, dest="value", default=default)
    return str(parser.parse_known_args(list(beam_args))[0].value)
