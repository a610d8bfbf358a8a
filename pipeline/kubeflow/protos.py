"""Strict reading of packages by KFP's own protos."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message, message_factory
from kfp.pipeline_spec import pipeline_spec_pb2

_KUBERNETES = "kubernetes_executor_config.binpb"
"""KFP's description of its Kubernetes settings; `scripts/kfp-protos` renews it."""


def problems(documents: Sequence[Any]) -> list[str]:
    """Finds what the protos do not take: unknown fields, values of another type, unknown names.

    Args:
        documents: the pipeline spec, and maybe the platform spec, as they would be in JSON.

    Returns:
        A line for each part that cannot be read: where it is and what it is. The parts are the
        pipeline spec, its deployment, and each executor's Kubernetes settings.
    """
    return list(_problems(documents))


def _problems(documents: Sequence[Any]) -> Iterator[str]:
    spec, *platforms = documents
    yield from _read(spec, pipeline_spec_pb2.PipelineSpec(), "")
    deployment = pipeline_spec_pb2.PipelineDeploymentConfig()
    yield from _read(spec.get("deploymentSpec", {}), deployment, "deploymentSpec")
    for platform in platforms:
        yield from _read(platform, pipeline_spec_pb2.PlatformSpec(), "")
        where = "platforms.kubernetes.deploymentSpec.executors"
        executors = platform
        for key in where.split("."):
            executors = executors.get(key) if isinstance(executors, dict) else None
        for label, config in (executors or {}).items():
            yield from _read(config, _kubernetes_config()(), f"{where}.{label}")


def _read(content: Any, into: message.Message, where: str) -> Iterator[str]:
    if not isinstance(content, dict):
        yield f"{where or 'package'}: expected a mapping, got {content!r:.60}"
        return
    try:
        json_format.ParseDict(content, into)
    except json_format.ParseError as error:
        yield _place(where, str(error))


def _place(where: str, text: str) -> str:
    """The parser's message behind the place that it is about.

    The parser names the fields on the way down, and most times the whole path after the message.
    """
    step = re.compile(r"Failed to parse (\w+) field: ")
    way = ".".join(step.findall(text))
    what, at, path = step.sub("", text).strip().partition("\n")[0].rstrip(".").rpartition(" at ")
    if not at:
        what, path = path, way
    else:
        path = re.sub(r"\[(.+?)\]", r".\1", path.strip('"')).partition(".")[2]
    return f"{'.'.join(filter(None, (where, path))) or 'package'}: {what}"


@functools.cache
def _kubernetes_config() -> type[message.Message]:
    pool = descriptor_pool.DescriptorPool()
    serialized = importlib.resources.files(__package__).joinpath(_KUBERNETES).read_bytes()
    described = descriptor_pb2.FileDescriptorProto.FromString(serialized)

    def add(file: Any) -> None:
        for dependency in file.dependencies:
            add(dependency)
        copy = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(copy)
        pool.Add(copy)

    add(pipeline_spec_pb2.DESCRIPTOR)
    pool.Add(described)
    found = pool.FindMessageTypeByName(f"{described.package}.KubernetesExecutorConfig")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(found)
    return message_factory.MessageFactory(pool).GetPrototype(found)
