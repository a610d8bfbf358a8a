"""The directory of served versions: the only code that reads or writes it.

Layout: `<serving_dir>/<version>/`, a SavedModel as TensorFlow Serving expects it, with
`assets.extra/version.json` (what the version is) and `assets.extra/training_state/` (what
a warm start needs). The highest version is the one served, which is TensorFlow Serving's
default policy; so a rollback is a new version with an old one's content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping

import pydantic
from absl import logging

from components import model_files, serving_lock, storage
from components.model_files import SAVED_MODEL
from schemas.errors import ServingStoreError

VERSION_FILE = os.path.join("assets.extra", "version.json")
TRAINING_STATE = os.path.join("assets.extra", "training_state")
_STAGING_PREFIX = ".staging-"
_LARGEST = 2**63 - 1
"""TensorFlow Serving's largest version."""


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a pushed model is.

    Attributes:
        run_date: the day it was evaluated on.
        trained_through: the newest day it was trained on.
        model_fingerprint: `RankingSpec.model_fingerprint` of its spec.
        tasks_fingerprint: `RankingSpec.tasks_fingerprint` of its spec.
        model_uri: the Model artifact that it was copied from.
        rolled_back_to: version whose content this is, when it came by a rollback.
        made_from: identifies spec, day, start and events that it was made from: a day that
            is run again on the same does not make a second version.
        files: SHA-256 of each file, as it was evaluated; empty for a version that was pushed
            before there were digests.
        ranker: name of its spec; empty for a version from before it was kept.
        seen: what it knows of its window and of its run date: by day an id of the log files;
            empty for a version from before it was kept.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True)

    run_date: datetime.date
    trained_through: datetime.date
    model_fingerprint: str
    tasks_fingerprint: str
    model_uri: str
    rolled_back_to: int | None = None
    made_from: str = ""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ranker: str = ""
    seen: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """One digest of all files; empty if there are none."""
        return model_files.digest_of(self.files) if self.files else ""


_INFO = pydantic.TypeAdapter(ModelInfo)


@dataclasses.dataclass(frozen=True)
class ServedVersion:
    """A version in the serving directory."""

    version: int
    path: str
    info: ModelInfo


def list_versions(serving_dir: str) -> tuple[ServedVersion, ...]:
    """Returns the whole versions in `serving_dir`, oldest first.

    What is not a version (files, folders without a SavedModel, links that lead nowhere, other
    names) is passed over, as TensorFlow Serving does.

    Raises:
        ServingStoreError: a version's `version.json` is missing or unreadable, or two
            folders are one version; nothing is guessed about what is being served.
    """
    while True:
        versions: list[ServedVersion] = []
        for number, path in _numbered(serving_dir):
            try:
                info = _read_info(path) if _is_whole(path) else None
            except ServingStoreError:
                if _is_whole(path):
                    raise
                info = None
            if info is None and not _is_there(path):
                # A push removed the version since it was listed.
                break
            if info is None:
                continue
            if versions and versions[-1].version == number:
                raise ServingStoreError(
                    f"{versions[-1].path} and {path} are both version {number}; remove one"
                )
            versions.append(ServedVersion(number, path, info))
        else:
            return tuple(versions)


def served_version(serving_dir: str) -> ServedVersion | None:
    """Returns the version that is served, or None before the first push."""
    versions = list_versions(serving_dir)
    return versions[-1] if versions else None


def damage(version: ServedVersion) -> list[str]:
    """Says, a line for each file, what of a version is not as it was evaluated and pushed."""
    return model_files.damage(version.path, version.info.files)


def push(
    model_dir: str,
    serving_dir: str,
    info: ModelInfo,
    keep_versions: int | None,
    *,
    served_before: int | None,
) -> ServedVersion:
    """Makes a model the served version.

    The model is copied beside the versions and renamed into place, so that no reader ever
    sees half of it. On object stores, which have no rename of folders, `saved_model.pb`,
    without which no version counts, is copied last. Whatever fails, nothing is left behind.

    Args:
        model_dir: folder of the SavedModel.
        serving_dir: folder of the versions; made when absent.
        info: what the model is.
        keep_versions: number of versions to keep, this one included; all if None.
        served_before: the version that was served when the run was planned, with which the
            model was compared; None if there was none.

    Returns:
        The new version, one above the highest that exists; or the served one, where that
        was made from the same and needs no second push.

    Raises:
        ServingStoreError: another version is served by now, or the model cannot be copied,
            or its copy is not what was evaluated.
    """
    if not storage.exists(os.path.join(model_dir, SAVED_MODEL)):
        raise ServingStoreError(f"{model_dir}: no {SAVED_MODEL}; nothing was pushed")
    with _changing(serving_dir) as held:
        served = served_version(serving_dir)
        if served is not None and _same_push(served.info, info):
            logging.info("%s was made from the same: it is not pushed again", served.path)
            return served
        number = _number(serving_dir)
        if number != served_before:
            raise ServingStoreError(
                f"{serving_dir}: {_named(number)} is served by now, but the run was planned, and "
                f"its model judged, when {_named(served_before)} was; nothing was pushed. Run "
                "the day again"
            )
        return _add(model_dir, serving_dir, info, keep_versions, held)


def rollback(serving_dir: str, version: int, keep_versions: int | None = None) -> ServedVersion:
    """Serves an older version's content again, as a new version.

    Args:
        serving_dir: folder of the served versions.
        version: the version to go back to.
        keep_versions: number of versions to keep, the new one included; all if None.

    Returns:
        The new version.

    Raises:
        ServingStoreError: there is no such version, it is being served already or damaged,
            or it cannot be copied.
    """
    if not storage.exists(serving_dir):
        raise ServingStoreError(f"{serving_dir}: no version {version}; there is: none")
    with _changing(serving_dir) as held:
        versions = {item.version: item for item in list_versions(serving_dir)}
        if version not in versions:
            known = ", ".join(map(str, versions)) or "none"
            raise ServingStoreError(f"{serving_dir}: no version {version}; there is: {known}")
        if version == max(versions):
            raise ServingStoreError(f"{serving_dir}: version {version} is being served already")
        target = versions[version]
        if faults := damage(target):
            raise ServingStoreError(
                "\n".join((f"version {version} is damaged and was not served again:", *faults))
            )
        files = target.info.files or model_files.digests(target.path, _model_files(target.path))
        info = dataclasses.replace(target.info, rolled_back_to=version, files=files)
        return _add(target.path, serving_dir, info, keep_versions, held)


def link_out(version: ServedVersion, target: str, *, training_state: bool) -> None:
    """Links a version's training state, or all but that, and holds the files to their digests.

    The files are copied where they cannot be linked.

    Args:
        version: of `list_versions`.
        target: folder that takes the files, under the names that they have in the version.
        training_state: which part.

    Raises:
        ServingStoreError: the version is damaged; says which file, and what to do.
    """
    files = [
        file
        for file in version.info.files or _model_files(version.path)
        if file.startswith(TRAINING_STATE + os.sep) == training_state
    ]
    needed = TRAINING_STATE if training_state else SAVED_MODEL
    if not any(file.startswith(needed) for file in files):
        raise _broken(version, [f"{os.path.join(version.path, needed)}: is missing"])
    try:
        model_files.link(version.path, target, files)
    except storage.errors() as error:
        raise _broken(version, damage(version) or [f"{version.path}: {error}"]) from error
    expected = {file: version.info.files[file] for file in files if version.info.files}
    if faults := model_files.damage(target, expected):
        raise _broken(version, damage(version) or faults)


def _broken(version: ServedVersion, faults: list[str]) -> ServingStoreError:
    serving_dir = os.path.dirname(version.path)
    versions = list_versions(serving_dir)
    served = bool(versions) and versions[-1].version == version.version
    whole = [item for item in reversed(versions[:-1]) if not damage(item)]
    if not served:
        advice = f"Restore the file, or remove {version.path}: an older version is then taken"
    elif whole:
        advice = (
            f"`steadyrank rollback {whole[0].version}` serves version {whole[0].version}, which "
            "is whole; or restore the file"
        )
    else:
        advice = (
            f"No other version is whole. Restore the file, or move {version.path} away: the next "
            "run then starts cold and is judged by the absolute bounds alone"
        )
    what = "the SERVED model" if served else f"version {version.version}"
    more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
    return ServingStoreError(
        f"{what} is broken, version {version.version}: {faults[0]}{more}. {advice}"
    )


@contextlib.contextmanager
def _changing(serving_dir: str) -> Iterator[Callable[[], bool]]:
    """Holds the directory's lock, and has what its file system fails with told."""
    try:
        storage.makedirs(serving_dir)
        with serving_lock.locked(serving_dir) as held:
            _remove_dead_staging(serving_dir)
            yield held
    except storage.errors() as error:
        raise ServingStoreError(
            f"{serving_dir}: cannot be changed ({_words(error)}); what is served is what was"
        ) from error


def _same_push(served: ModelInfo, pushed: ModelInfo) -> bool:
    same = bool(pushed.made_from) and served.made_from == pushed.made_from
    return same and served.rolled_back_to is None


def _add(
    model_dir: str,
    serving_dir: str,
    info: ModelInfo,
    keep_versions: int | None,
    held: Callable[[], bool],
) -> ServedVersion:
    """Adds a version; the lock is held, and `held` says whether it still is."""
    files = _model_files(model_dir)
    # Makes room. Those within the number to keep only go once there is a newer one.
    _remove_surplus(serving_dir, keep_versions, but=model_dir)
    number = max((number for number, _ in _numbered(serving_dir)), default=0) + 1
    path = os.path.join(serving_dir, str(number))
    local = storage.is_local(serving_dir)
    before = _number(serving_dir)
    staging = os.path.join(serving_dir, f"{_STAGING_PREFIX}{uuid.uuid4().hex}") if local else path
    try:
        version_file = os.path.join(staging, VERSION_FILE)
        storage.makedirs(os.path.dirname(version_file))
        with storage.open(version_file, "w") as file:
            content = {**_INFO.dump_python(info, mode="json"), "digest": info.digest}
            file.write(json.dumps(content, indent=2))
        for part in (files[:-1], files[-1:]):
            # A holder that slept for long may have lost the lock to another push.
            if part == [SAVED_MODEL] and not (held() and _number(serving_dir) == before):
                raise ServingStoreError(
                    f"{serving_dir}: another version was pushed meanwhile; nothing was pushed. Run "
                    "the day again"
                )
            model_files.copy(model_dir, staging, part)
            expected = {file: info.files[file] for file in part if file in info.files}
            if faults := model_files.damage(staging, expected):
                raise ServingStoreError(
                    "\n".join(("what was copied is not what was evaluated:", *faults))
                )
        if local:
            model_files.make_durable(staging)
            os.rename(staging, path)
    except BaseException as error:
        room = _room(model_dir, files, serving_dir, keep_versions) if local else ""
        _discard(staging)
        if isinstance(error, storage.errors()):
            raise ServingStoreError(
                f"{path}: the model cannot be pushed ({_words(error)}{room}); nothing was left "
                "behind, and what is served is what was"
            ) from error
        raise
    harmless: tuple[type[Exception], ...] = (ServingStoreError, *storage.errors())
    try:
        if local:
            model_files.sync(serving_dir)
        _remove_surplus(serving_dir, keep_versions)
    except harmless as error:
        # The model is served by now: an error would deny it.
        logging.warning("%s is served, but what comes after its push failed: %s", path, error)
    return ServedVersion(number, path, info)


def _model_files(model_dir: str) -> list[str]:
    return model_files.list_files(model_dir, skip=VERSION_FILE)


def _room(model_dir: str, files: list[str], serving_dir: str, keep_versions: int | None) -> str:
    """Says what room a model needs, where there is too little."""
    try:
        free = shutil.disk_usage(serving_dir).free
        needed = sum(os.path.getsize(os.path.join(model_dir, file)) for file in files)
    except storage.errors():
        return ""
    if free >= needed:
        return ""
    kept = f" or keep fewer than {keep_versions} versions" if keep_versions else ""
    return f"; it takes {needed:,} bytes and {free:,} are free: make room{kept}"


def _discard(staging: str) -> None:
    try:
        if storage.exists(staging):
            storage.rmtree(staging)
    except storage.errors() as error:
        logging.warning("%s: is left, the next push tries again: %s", staging, error)


def _remove_surplus(serving_dir: str, keep_versions: int | None, but: str = "") -> None:
    for old in list_versions(serving_dir)[:-keep_versions] if keep_versions else ():
        try:
            if old.path != but:
                _remove_version(old.path)
        except storage.errors() as error:
            # No push fails for it; the next one tries again.
            logging.warning("%s: a version to be removed is left: %s", old.path, error)


def _remove_version(path: str) -> None:
    """Takes a version out of the readers' sight at once, then removes its files."""
    if storage.is_local(path) and os.path.islink(path):
        os.unlink(path)
        return
    if storage.is_local(path):
        hidden = os.path.join(os.path.dirname(path), f"{_STAGING_PREFIX}{uuid.uuid4().hex}")
        os.rename(path, hidden)
        path = hidden
    else:
        storage.remove(os.path.join(path, SAVED_MODEL))
    storage.rmtree(path)


def _numbered(serving_dir: str) -> list[tuple[int, str]]:
    """Number and path of what has the name of a version, by number."""
    if not storage.exists(serving_dir):
        return []
    names = [name.rstrip("/") for name in storage.listdir(serving_dir)]
    # What TensorFlow Serving takes for one: digits of ASCII, and no more than an int64 holds.
    versions = [name for name in names if name.isascii() and name.isdecimal()]
    return sorted(
        (int(name), os.path.join(serving_dir, name)) for name in versions if int(name) <= _LARGEST
    )


def _is_whole(path: str) -> bool:
    # An object store has no atomic rename: there, saved_model.pb is written last. Elsewhere one
    # that has lost it is a version all the same, and damaged.
    if not storage.is_local(path):
        return storage.exists(os.path.join(path, SAVED_MODEL))
    return any(os.path.isfile(os.path.join(path, name)) for name in (SAVED_MODEL, VERSION_FILE))


def _is_there(path: str) -> bool:
    return os.path.lexists(path) if storage.is_local(path) else storage.exists(path)


def _read_info(path: str) -> ModelInfo:
    file_path = os.path.join(path, VERSION_FILE)
    try:
        if storage.is_local(path) and not os.path.isfile(file_path):
            raise FileNotFoundError("it is not a file" if os.path.lexists(file_path) else "no file")
        with storage.open(file_path, "r") as file:
            content = json.loads(file.read())
        digest = content.pop("digest", None)
        info = _INFO.validate_json(json.dumps(content))
        if digest is not None and digest != info.digest:
            raise ValueError("its digest is not that of its list of files")
        return info
    except Exception as error:
        raise ServingStoreError(
            f"{file_path}: cannot tell what this version is ({_words(error)}); remove the "
            "version, or restore the file"
        ) from error


def _words(error: BaseException) -> str:
    if isinstance(error, pydantic.ValidationError):
        faults = error.errors(include_url=False)
        return "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults)
    return " ".join(str(getattr(error, "message", None) or error).split())


def _remove_dead_staging(serving_dir: str) -> None:
    """Removes what a killed push left behind: whoever holds the lock is the only one alive."""
    if not storage.is_local(serving_dir):
        return
    for name in os.listdir(serving_dir):
        if name.startswith(_STAGING_PREFIX):
            _discard(os.path.join(serving_dir, name))


def _number(serving_dir: str) -> int | None:
    served = served_version(serving_dir)
    return served.version if served else None


def _named(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
