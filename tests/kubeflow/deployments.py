"""Packages, and deployments of them on a fake server."""

import datetime

import yaml

from pipeline.kubeflow.client import Deployment
from pipeline.kubeflow.package import RunSettings, read_package
from pipeline.kubeflow.schedule import Schedule
from pipeline.kubeflow.server import Connection, connect

DAY = datetime.date(2026, 1, 5)
NOTHING = RunSettings()
CRON = "0 0 3 * * *"
TO_ITS_TIME = 15 * 3600
"""Seconds from when the fake server starts, 2026-01-10 12:00, to the first time of `CRON`."""


def package_in(folder, image, lag_days=1, run_date=""):
    inputs = {"run_date_lag_days": {"runtimeValue": {"constant": lag_days}}}
    parameters = {
        "run_date": {"parameterType": "STRING", "defaultValue": run_date},
        "logs_root": {"parameterType": "STRING", "defaultValue": "/data/logs"},
        "attempts": {"parameterType": "NUMBER_INTEGER", "defaultValue": 1},
    }
    spec = {
        "pipelineInfo": {"name": "ranker"},
        "schemaVersion": "2.1.0",
        "defaultPipelineRoot": "minio://bucket/artifacts",
        "deploymentSpec": {"executors": {"Plan": {"container": {"image": image}}}},
        "root": {
            "inputDefinitions": {"parameters": parameters},
            "dag": {"tasks": {"Plan": {"inputs": {"parameters": inputs}}}},
        },
    }
    path = folder / f"{image.replace(':', '-')}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return read_package(str(path))


def deployment_on(fake, events=None, lag_days=1, **options):
    server = connect(Connection(fake.url, **options), sleep=fake.advance)
    return Deployment(server, "ranker", lag_days, (events if events is not None else []).append)


def scheduled(deployment, package, cron=CRON, settings=NOTHING):
    return Schedule(deployment, "daily").apply(package, cron, settings)
