"""How good a model is on the run date while it trains (arXiv:2302.09178, Section 5.2, Fig. 5).

For people to look at: nothing is chosen or stopped by it, so that no model has seen the events
that the Evaluator judges it by.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from schemas.spec import RankingSpec
from schemas.tasks import BinaryTask
from trainer_module.inputs import Parse
from trainer_module.metrics import auc, rmse

SAMPLE = 4096
"""Events that are evaluated on."""


class DayEvaluation:
    """Evaluates a model on the same events again and again."""

    def __init__(
        self,
        model: keras.Model,
        spec: RankingSpec,
        files: Sequence[str],
        parse: Parse,
    ) -> None:
        """Reads the sample: the first events of every file, `SAMPLE` in all.

        Args:
            model: of `build_model`; evaluated as it is at each call.
            spec: the ranking spec.
            files: gzipped TFRecords of the run date's encoded events.
            parse: `trainer_module.inputs.parser(spec)`.
        """
        records = tf.data.Dataset.from_tensor_slices(sorted(files)).interleave(
            lambda file: tf.data.TFRecordDataset(file, compression_type="GZIP"),
            cycle_length=max(1, len(files)),
            block_length=1,
        )
        sample = next(iter(records.batch(SAMPLE)), None)
        self._spec = spec
        self._forward = tf.function(
            lambda features: model(features, training=False), autograph=False
        )
        if sample is not None:
            self._features, self._labels, self._weights = parse(sample)
        self._empty = sample is None

    def __call__(self) -> dict[str, float]:
        """Returns the AUC of each binary task and the RMSE of each regression, in its loss's space.

        Over the task's labelled events; NaN where they do not tell. Nothing without events.
        """
        if self._empty:
            return {}
        outputs = self._forward(self._features)
        metrics = {}
        for name, task in self._spec.tasks.items():
            labelled = self._weights[name].numpy()[:, 0] > 0
            label = self._labels[name].numpy()[labelled, 0].astype(np.float64)
            output = outputs[name].numpy()[labelled, 0].astype(np.float64)
            metrics[name] = (auc if isinstance(task, BinaryTask) else rmse)(label, output)
        return metrics
