"""Reads events in batches and lets the models predict them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
import tensorflow_model_analysis as tfma
from apache_beam.utils.shared import Shared

from components.evaluator.estimates import BLOCKS
from components.example_reading import read_records
from components.smoothed_rates import Rates, event_buckets
from schemas.spec import RankingSpec
from trainer_module import signatures
from trainer_module.preprocessing import labels_and_weights, raw_feature_spec

BATCH = 8192
"""Events that are read, predicted and summed up at once."""

STAGE = "PredictBatches"

EVENTS_KEY, GROUPS_KEY, BLOCKS_KEY = "events", "groups", "blocks"
"""Keys of the extracts: a hash of each event, that of its group or -1, and the block of it: the
group's, or else the event's; see `estimates`. int64 [events]"""

_HASHES = BLOCKS << 54

RATES = "rates"
"""Name under which smoothed rates predict beside the models."""


@dataclasses.dataclass(frozen=True)
class Slices:
    """The value of a feature by which events are sliced.

    Attributes:
        values: the values that a batch has.
        codes: the number of each event's value, -1 where it has none, [events].
    """

    values: tuple[str | int, ...]
    codes: npt.NDArray[np.int64]


def read_batches(file: str) -> Iterator[pa.RecordBatch]:
    """Reads gzipped TFRecords as TFMA's batches of events.

    Args:
        file: name of the file.

    Returns:
        Record batches with serialized events in the column `tfma.constants.ARROW_INPUT_COLUMN`.
    """
    for batch in read_records(file, BATCH):
        yield pa.RecordBatch.from_arrays(
            [pa.array(batch, pa.large_binary())], [tfma.constants.ARROW_INPUT_COLUMN]
        )


def prediction_extractor(
    spec: RankingSpec, models: Mapping[str, str], rates: str | None
) -> tfma.extractors.Extractor:
    """Makes the extractor that takes the place of TFMA's own, which work event by event.

    It adds to a batch's extracts: `tfma.LABELS_KEY` and `tfma.EXAMPLE_WEIGHTS_KEY`, float32
    [events] by output; `tfma.PREDICTIONS_KEY`, the same by model and output, the score too, and
    as `RATES` what smoothed rates predict;
    `tfma.FEATURES_KEY`, `Slices` by the sliced feature; `EVENTS_KEY`, `GROUPS_KEY`,
    `BLOCKS_KEY`.

    Args:
        spec: the ranking spec.
        models: folder of the SavedModel by model name; labels are the first one's.
        rates: file of `Rates`, if they predict, too.

    Returns:
        An extractor for record batches of `read_batches`.
    """
    return tfma.extractors.Extractor(
        stage_name=STAGE, ptransform=beam.ParDo(_Predict(spec, dict(models), rates, Shared()))
    )


class _Predict(beam.DoFn):
    def __init__(
        self, spec: RankingSpec, models: dict[str, str], rates: str | None, shared: Shared
    ):
        self._spec = spec
        self._models = models
        self._rates = rates
        self._shared = shared

    def setup(self) -> None:
        # Once in a process, whatever the number of its threads.
        self._predict = self._shared.acquire(lambda: Models(self._spec, self._models, self._rates))

    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {**extracts, **self._predict(extracts[tfma.ARROW_RECORD_BATCH_KEY].column(0))}


class Models:
    """Several models and what they are judged on, as one function of serialized events."""

    def __init__(self, spec: RankingSpec, models: Mapping[str, str], rates: str | None):
        self._spec = spec
        self._rates = Rates.load(rates, spec) if rates else None
        self._outputs = [*spec.tasks, signatures.FINITE]
        self._fields = raw_feature_spec(spec)
        self._loaded = {name: tf.saved_model.load(path) for name, path in models.items()}
        # One call for all of it: TensorFlow runs the models side by side, and makes one of what
        # they do alike. Events are parsed once where the models parse the same fields.
        self._function = tf.function(
            self._run, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
        )

    def _run(self, examples: tf.Tensor) -> Any:
        predictions = {name: _evaluate(model, examples) for name, model in self._loaded.items()}
        slices = {}
        parsed = tf.io.parse_example(examples, self._fields)
        # Not the candidate's own: it would be judged by what it says itself.
        labels = labels_and_weights(parsed, self._spec)
        ones = tf.ones_like(examples, tf.float32)
        for key in (signatures.label_key, signatures.weight_key):
            labels[key(signatures.FINITE)] = ones
        labels = {name: tf.reshape(values, [-1]) for name, values in labels.items()}
        for name in self._spec.sliced_features:
            unique, codes = tf.unique(parsed[name].values, tf.int64)
            slices[name] = (unique, codes, parsed[name].indices[:, 0])
        buckets = event_buckets(parsed, self._spec) if self._rates else {}
        hashes = tf.strings.to_hash_bucket_fast(examples, _HASHES), self._groups(parsed, examples)
        return predictions, labels, slices, buckets, hashes

    def _groups(self, parsed: Mapping[str, tf.SparseTensor], examples: tf.Tensor) -> tf.Tensor:
        """A hash of each event's group, -1 where it has none, int64 [events]."""
        none = tf.fill(tf.shape(examples), tf.constant(-1, tf.int64))
        if (name := self._spec.evaluation.group_by) is None:
            return none
        groups = parsed[name]
        values = groups.values
        if values.dtype != tf.string:
            values = tf.as_string(values)
        hashes = tf.strings.to_hash_bucket_fast(values, _HASHES)
        return tf.tensor_scatter_nd_update(none, groups.indices[:, :1], hashes)

    def __call__(self, examples: pa.Array) -> dict[str, Any]:
        """Returns the extracts that `prediction_extractor` adds for serialized events."""
        serialized = tf.constant(examples.to_numpy(zero_copy_only=False), tf.string)
        predictions, labels, slices, buckets, (events, groups) = tf.nest.map_structure(
            lambda tensor: tensor.numpy(), self._function(serialized)
        )
        return {
            tfma.LABELS_KEY: {n: labels[signatures.label_key(n)] for n in self._outputs},
            tfma.EXAMPLE_WEIGHTS_KEY: {n: labels[signatures.weight_key(n)] for n in self._outputs},
            tfma.PREDICTIONS_KEY: {
                model: {n: outputs[n] for n in (*self._outputs, signatures.SCORE)}
                for model, outputs in predictions.items()
            }
            | ({RATES: self._rates.predict(buckets, len(examples))} if self._rates else {}),
            tfma.FEATURES_KEY: {
                name: _slices(len(examples), *found) for name, found in slices.items()
            },
            EVENTS_KEY: events,
            GROUPS_KEY: groups,
            BLOCKS_KEY: np.where(groups < 0, events, groups) % BLOCKS,
        }


def _evaluate(model: Any, examples: tf.Tensor) -> dict[str, tf.Tensor]:
    answer = model.signatures[signatures.EVALUATE](examples=examples)
    if signatures.SCORE not in answer:
        # A version served since before it was evaluated.
        answer[signatures.SCORE] = model.signatures[signatures.SERVE_EXAMPLES](examples=examples)[
            signatures.SCORE
        ]
    return answer


def _slices(events: int, values: Any, codes: Any, rows: Any) -> Slices:
    # A single-valued feature has one value an event, or none.
    of_event = np.full(events, -1, np.int64)
    of_event[rows] = codes
    return Slices(
        tuple(v.decode() if isinstance(v, bytes) else int(v) for v in values.tolist()), of_event
    )
