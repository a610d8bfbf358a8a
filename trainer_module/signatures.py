"""Names that the exported model, its signatures and its evaluation share."""

SERVE_EXAMPLES = "serving_default"
"""Serialized tf.Examples to every task's prediction and the score."""

SERVE_FEATURES = "raw_features"
"""Named raw features, as JSON clients send them, to the same."""

EVALUATE = "evaluate"
"""Serialized tf.Examples to predictions in the space of the loss, the score, and `FINITE`."""

LABELS = "evaluation_labels"
"""Serialized tf.Examples to labels in the space of the loss, and their weights."""

SCORE = "score"
"""Output with the combined ranking score."""

FINITE = "all_finite"
"""Output of `EVALUATE`: 1 where every task's prediction, in the space of the loss and as it is
served, and the score are finite, else 0."""

NOT_EXPORTED = "NOT_EXPORTED"
"""File in place of the SavedModel of a training that must not be served; a reason a line."""

ABSENT_ID = -1
"""An integer feature's value that means there is none."""


def label_key(task: str) -> str:
    """Name of a task's transformed label, float32 [batch, 1]."""
    return f"{task}__label"


def weight_key(task: str) -> str:
    """Name of a task's label weight, float32 [batch, 1]: 0 where there is no label."""
    return f"{task}__weight"
