"""A worker of Beam without Beam's container: what its `boot` does, in Python.

A pool starts it (`pipeline.flink.pool`). It takes the job's options from the runner, which the
pool's own workers do not, and imports what is installed: no files are staged.

Usage: python -m pipeline.flink.worker --id=ID --provision_endpoint=HOST:PORT
    [--control_endpoint=HOST:PORT] [--logging_endpoint=HOST:PORT]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
from google.protobuf import json_format, text_format

if TYPE_CHECKING:
    from apache_beam.portability.api import beam_provision_api_pb2, endpoints_pb2


def environment(
    info: beam_provision_api_pb2.ProvisionInfo, control: str, logging: str
) -> dict[str, str]:
    """Returns what Beam's `sdk_worker_main` reads from its environment.

    Args:
        info: what the runner says of the job.
        control: address that the worker gets its work from, if the runner names no other.
        logging: address that it logs to, likewise.
    """

    def endpoint(of_job: endpoints_pb2.ApiServiceDescriptor, address: str = "") -> str:
        chosen = type(of_job)(url=of_job.url or address)
        return text_format.MessageToString(chosen, as_one_line=True)

    found = {
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "CONTROL_API_SERVICE_DESCRIPTOR": endpoint(info.control_endpoint, control),
        "LOGGING_API_SERVICE_DESCRIPTOR": endpoint(info.logging_endpoint, logging),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    if info.status_endpoint.url:
        found["STATUS_API_SERVICE_DESCRIPTOR"] = endpoint(info.status_endpoint)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Works for one job until the runner lets go of it."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("id", "provision_endpoint"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("control_endpoint", "logging_endpoint"):
        parser.add_argument(f"--{name}", default="")
    options, _ = parser.parse_known_args(arguments)
    # Beam reads it as it is imported.
    os.environ["WORKER_ID"] = options.id
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc

    with grpc.insecure_channel(options.provision_endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        info = stub.GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=[("worker_id", options.id)],
            timeout=60,
        ).info
    os.environ.update(environment(info, options.control_endpoint, options.logging_endpoint))
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


if __name__ == "__main__":
    main()
