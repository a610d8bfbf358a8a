"""Runs a package by the KFP SDK's own local runner, in containers; no package of ours is here.

Usage: python kfp_local.py PACKAGE ROOT VOLUME PARAMETERS, where ROOT is for the artifacts, VOLUME
is what the steps see as /data, and PARAMETERS is a JSON object. Docker's API is at $DOCKER_HOST.
"""

import json
import pathlib
import sys

import kfp
from docker.types import Mount, Ulimit
from kfp import components, local

SCHEDULE_TIME = "{{$.pipeline_job_schedule_time_utc}}"


def main(package: str, root: str, volume: str, parameters: str) -> None:
    """Runs it; an exception tells which task failed."""
    print(f"kfp {kfp.__version__}")
    pathlib.Path(root).mkdir()
    pathlib.Path(root).chmod(0o777)
    local.init(
        local.DockerRunner(
            mounts=[Mount("/data", volume, type="bind")],
            network_mode="none",
            cap_drop=["all"],
            user="0:0",
            ulimits=[Ulimit(name=name, soft=1000, hard=1000) for name in ("nofile", "nproc")],
        ),
        pipeline_root=root,
    )
    # It does not know this placeholder, and ends with an IndexError.
    text = pathlib.Path(package).read_text().replace(SCHEDULE_TIME, "")
    components.load_component_from_text(text)(**json.loads(parameters))


if __name__ == "__main__":
    main(*sys.argv[1:])
