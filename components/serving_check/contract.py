"""What a model's signatures take, answer and do, read off its graph. Imports TensorFlow alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

Tensor = tuple[str, list[int | None]]
"""Type and shape of a tensor, None for a size that requests choose."""

_MAY_READ_WEIGHTS = frozenset(
    [
        "Assert",
        "Case",
        "If",
        "ReadVariableOp",
        "ResourceGather",
        "ResourceGatherNd",
        "StatefulPartitionedCall",
        "VarHandleOp",
        "While",
    ]
)
"""Operations that TensorFlow calls stateful, and that do no more than read weights, call and check.
Others draw random numbers, look at the clock, change weights, or read and write files."""
_READ_FILES = frozenset(["MatchingFiles", "ReadFile"])
"""Operations that TensorFlow does not call stateful, though they are."""


def breaches(signatures: Mapping[str, Any], promised: Mapping[str, Any]) -> list[str]:
    """Says what of a model must not even be called, or is not what its clients know.

    Args:
        signatures: the signatures of a loaded SavedModel.
        promised: by the name of a served signature, `inputs` and `outputs`: a `Tensor` by name.
            A client sends each of the inputs and no other; more outputs do no harm.

    Returns:
        A line for each fault.
    """
    faults: list[str] = []
    for name, tensors in promised.items():
        if name in signatures:
            found = signatures[name].structured_input_signature[1]
            faults += _others(f"{name}: takes", found, tensors["inputs"], "clients send")
            answered = signatures[name].structured_outputs
            known = {key: value for key, value in answered.items() if key in tensors["outputs"]}
            faults += _others(f"{name}: answers", known, tensors["outputs"], "clients read")
        else:
            faults.append(f"no signature {name!r}")
    for name, signature in sorted(signatures.items()):
        if impure := sorted(_operations(signature) - _MAY_READ_WEIGHTS):
            faults.append(
                f"{name}: uses {', '.join(impure)}; an answer may depend on the request and the "
                "weights alone, and change nothing"
            )
    return faults


def _others(
    what: str, found: Mapping[str, tf.TensorSpec], promised: Mapping[str, Tensor], clients: str
) -> Iterator[str]:
    for name in sorted({*found, *promised}):
        own = found.get(name)
        shape = own.shape.as_list() if own is not None and own.shape.rank is not None else None
        here = "nothing" if own is None else _in_words(own.dtype.name, shape)
        there = _in_words(*promised[name]) if name in promised else "nothing"
        if here != there:
            yield f"{what} {here} as {name!r}, {clients} {there}"


def _in_words(dtype: str, shape: list[int | None] | None) -> str:
    if shape is None:
        return f"{dtype} of any shape"
    sizes = [
        ("any" if place else "batch") if n is None else str(n) for place, n in enumerate(shape)
    ]
    return f"{dtype} [{', '.join(sizes)}]"


def _operations(signature: Any) -> set[str]:
    """Names of the operations of a signature, and of the functions that it calls, with state."""
    graph = signature.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    definitions = {node.op: op_def_registry.get(node.op) for node in nodes}
    # One without a definition is the call of a function.
    return {op for op, known in definitions.items() if known is not None and known.is_stateful} | (
        definitions.keys() & _READ_FILES
    )
