"""The directory of served versions: the only code that reads or writes it.

Layout: `<serving_dir>/<version>/`, a SavedModel as TensorFlow Serving expects it, with
`assets.extra/version.json` (what the version is) and `assets.extra/training_state/` (what
a warm start needs). The highest version is the one served, which is TensorFlow Serving's
default policy; so a rollback is a new version with an old one's content.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import uuid

from absl import logging

from components import storage as fileio
from schemas.errors import ServingStoreError

VERSION_FILE = os.path.join("assets.extra", "version.json")
TRAINING_STATE = os.path.join("assets.extra", "training_state")
_SAVED_MODEL = "saved_model.pb"
_STAGING_PREFIX = ".staging-"
_STAGING_LIFETIME = datetime.timedelta(days=1)


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
    """

    run_date: datetime.date
    trained_through: datetime.date
    model_fingerprint: str
    tasks_fingerprint: str
    model_uri: str
    rolled_back_to: int | None = None


@dataclasses.dataclass(frozen=True)
class ServedVersion:
    """A version in the serving directory."""

    version: int
    path: str
    info: ModelInfo


def list_versions(serving_dir: str) -> tuple[ServedVersion, ...]:
    """Returns the whole versions in `serving_dir`, oldest first.

    Raises:
        ServingStoreError: a version's `version.json` is missing or unreadable; nothing is
            guessed about what is being served.
    """
    if not fileio.exists(serving_dir):
        return ()
    names = [name for name in map(_base, fileio.listdir(serving_dir)) if name.isdecimal()]
    versions = []
    for name in sorted(names, key=int):
        path = os.path.join(serving_dir, name)
        try:
            if _is_whole(path):
                versions.append(ServedVersion(int(name), path, _read_info(path)))
                continue
        except ServingStoreError:
            if _is_whole(path):
                raise
        if not fileio.exists(path):
            # A push removed the version since it was listed.
            return list_versions(serving_dir)
    return tuple(versions)


def served_version(serving_dir: str) -> ServedVersion | None:
    """Returns the version that is served, or None before the first push."""
    versions = list_versions(serving_dir)
    return versions[-1] if versions else None


def push(
    model_dir: str, serving_dir: str, info: ModelInfo, keep_versions: int | None
) -> ServedVersion:
    """Makes a model the served version.

    The model is copied beside the versions and renamed into place, so that no reader ever
    sees half of it. On object stores, which have no rename of folders, `saved_model.pb`,
    without which no version counts, is copied last.

    Args:
        model_dir: folder of the SavedModel.
        serving_dir: folder of the versions; made when absent.
        info: what the model is.
        keep_versions: number of versions to keep, this one included; all if None.

    Returns:
        The new version, one above the highest that exists.

    Raises:
        ServingStoreError: another push took the version, or `model_dir` holds no SavedModel.
    """
    if not fileio.exists(os.path.join(model_dir, _SAVED_MODEL)):
        raise ServingStoreError(f"{model_dir}: no {_SAVED_MODEL}; nothing was pushed")
    fileio.makedirs(serving_dir)
    _remove_dead_staging(serving_dir)
    taken = [int(n) for n in map(_base, fileio.listdir(serving_dir)) if n.isdecimal()]
    version = max(taken, default=0) + 1
    path = os.path.join(serving_dir, str(version))
    if _is_local(serving_dir):
        staging = os.path.join(serving_dir, f"{_STAGING_PREFIX}{uuid.uuid4().hex}")
        _copy_model(model_dir, staging, info)
        try:
            os.rename(staging, path)
        except OSError as error:
            fileio.rmtree(staging)
            raise ServingStoreError(
                f"{path}: another push took this version ({error}); run the push again"
            ) from error
    else:
        _copy_model(model_dir, path, info)
    surplus = list_versions(serving_dir)[:-keep_versions] if keep_versions else ()
    for old in surplus:
        try:
            _remove_version(old.path)
        except OSError as error:
            # The push has succeeded; the next one tries again.
            logging.warning("%s: a version to be removed is left: %s", old.path, error)
    return ServedVersion(version, path, info)


def rollback(serving_dir: str, version: int, keep_versions: int | None = None) -> ServedVersion:
    """Serves an older version's content again, as a new version.

    Args:
        serving_dir: folder of the versions.
        version: the version to go back to.
        keep_versions: number of versions to keep, the new one included; all if None.

    Returns:
        The new version.

    Raises:
        ServingStoreError: there is no such version, or it is being served already.
    """
    versions = {item.version: item for item in list_versions(serving_dir)}
    if version not in versions:
        known = ", ".join(map(str, versions)) or "none"
        raise ServingStoreError(f"{serving_dir}: no version {version}; there is: {known}")
    if version == max(versions):
        raise ServingStoreError(f"{serving_dir}: version {version} is being served already")
    target = versions[version]
    info = dataclasses.replace(target.info, rolled_back_to=version)
    return push(target.path, serving_dir, info, keep_versions)


def copy_files(source: str, target: str, skip: str | None = None) -> None:
    """Copies a folder's files, any file systems, leaving out the file or folder `skip`.

    `saved_model.pb` is copied last.
    """
    files: list[str] = []
    for folder, _, names in fileio.walk(source):
        inside = os.path.relpath(folder, source)
        files.extend(os.path.normpath(os.path.join(inside, name)) for name in names)
    if skip is not None:
        files = [file for file in files if not (file + os.sep).startswith(skip + os.sep)]
    for file in sorted(files, key=lambda file: (file == _SAVED_MODEL, file)):
        destination = os.path.join(target, file)
        fileio.makedirs(os.path.dirname(destination))
        fileio.copy(os.path.join(source, file), destination, overwrite=True)


def _copy_model(model_dir: str, path: str, info: ModelInfo) -> None:
    version_file = os.path.join(path, VERSION_FILE)
    fileio.makedirs(os.path.dirname(version_file))
    with fileio.open(version_file, "w") as file:
        file.write(json.dumps(dataclasses.asdict(info), default=str, indent=2))
    copy_files(model_dir, path, skip=VERSION_FILE)


def _remove_version(path: str) -> None:
    """Takes a version out of the readers' sight at once, then removes its files."""
    try:
        if _is_local(path):
            hidden = os.path.join(os.path.dirname(path), f"{_STAGING_PREFIX}{uuid.uuid4().hex}")
            os.rename(path, hidden)
            path = hidden
        else:
            fileio.remove(os.path.join(path, _SAVED_MODEL))
        fileio.rmtree(path)
    except (FileNotFoundError, fileio.NotFoundError):
        # Another push removed it; the end is the same.
        return


def _is_whole(path: str) -> bool:
    # An object store has no atomic rename: there, saved_model.pb is written last.
    return fileio.exists(os.path.join(path, _SAVED_MODEL))


def _read_info(path: str) -> ModelInfo:
    file_path = os.path.join(path, VERSION_FILE)
    try:
        with fileio.open(file_path, "r") as file:
            content = json.loads(file.read())
        for field in ("run_date", "trained_through"):
            content[field] = datetime.date.fromisoformat(content[field])
        return ModelInfo(**content)
    except Exception as error:
        raise ServingStoreError(
            f"{file_path}: cannot tell what this version is ({error}); remove the version, "
            "or restore the file"
        ) from error


def _remove_dead_staging(serving_dir: str) -> None:
    """Removes what a killed push left behind, once it is surely dead."""
    if not _is_local(serving_dir):
        return
    oldest = datetime.datetime.now() - _STAGING_LIFETIME
    for name in fileio.listdir(serving_dir):
        path = os.path.join(serving_dir, name)
        try:
            if name.startswith(_STAGING_PREFIX) and os.path.getmtime(path) < oldest.timestamp():
                fileio.rmtree(path)
        except (FileNotFoundError, fileio.NotFoundError):
            # Another push, alive, made a version of it or removed it.
            continue


def _base(name: str) -> str:
    return name.rstrip("/")


def _is_local(path: str) -> bool:
    return "://" not in path
