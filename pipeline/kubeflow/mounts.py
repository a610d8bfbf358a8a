"""Where the launcher of Kubeflow Pipelines keeps its local copies of artifacts.

Source: kubeflow/pipelines, backend/src/v2/component/launcher_v2.go, LocalPathForURI.
"""

from __future__ import annotations

_FOLDERS = {"gs": "gcs", "s3": "s3", "minio": "minio"}


def local_path(uri: str, base: str = "/") -> str | None:
    """Returns where the launcher's copy of `uri` lies, or None if it makes none.

    Args:
        uri: URI of an artifact.
        base: folder of the launcher's mounts; not `/` only where the launcher is simulated.
    """
    scheme, separator, key = uri.partition("://")
    if not separator or scheme not in _FOLDERS:
        return None
    return f"{base.rstrip('/')}/{_FOLDERS[scheme]}/{key}"
