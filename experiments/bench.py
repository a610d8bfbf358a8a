"""Rules against models, rates and seeds on a real log: what `widths` and `table2` share.

KuaiRand-Pure, seven tasks; days in order, batches at random from a window of three days; AUC on
the day after. The search trains on the first 11 days and chooses thresholds on the twelfth; the
report trains on 13 days, with other seeds, and tells the fourteenth. A training is one line of
the output; those that are there already are not done again.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import rules
from experiments.replicas import CHUNKS, Log, Setting, Trainings
from schemas.loading import load_spec
from schemas.spec import RankingSpec
from schemas.training import Architecture
from trainer_module import optimizers
from trainer_module.metrics import auc, rmse
from trainer_module.optimizers import Rule
from trainer_module.signatures import label_key

DAYS = {"search": 11, "report": 13}
SHIFT_DAY, SHIFTED = 7, "play_time"
SMOOTHED = 16
"""Steps that a row's curve has the largest loss of."""
COMPILERS = 4
"""Programs that are compiled at a time, ahead of their use."""

GC, AGC = optimizers.GradientClipping, optimizers.AdaptiveGradientClipping
GRIDS: dict[str, list[Rule]] = {
    "gc": [GC(x) for x in (1.0, 1e-1, 1e-2, 1e-3)],
    "agc": [AGC(x) for x in (1e-1, 1e-2, 1e-3, 1e-4)],
    "lamb": [optimizers.Lamb(x) for x in (1e-1, 3e-2, 1e-2, 1e-3)],
    "layer_clippy": [
        rules.LayerClippy(*x) for x in ((0.02, 1e-3), (0.05, 1e-3), (0.1, 1e-3), (0.02, 1e-4))
    ],
    "fan_in_move": [rules.FanInMove(x) for x in (0.1, 0.3, 1.0, 3.0)],
    "relative_move": [rules.RelativeMove(x) for x in (1e-3, 3e-3, 1e-2, 3e-2)],
    "unit_clippy": [optimizers.Clippy(unit_threshold=x) for x in (1.0, 3.0, 10.0, 30.0)],
    "coordinate_clippy": [rules.CoordinateClippy(x) for x in (1e-2, 3e-3, 1e-3, 3e-4)],
}
RIVALS = ("gc", "agc", "lamb")
FIXED = {
    "none": optimizers.NoClipping(),
    "clippy_paper": optimizers.Clippy(),
}
CANDIDATES = tuple(name for name in GRIDS if name not in RIVALS)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is compared, and how long each is trained.

    Attributes:
        models: sizes by name.
        rates: learning rates by stage, `search` and `report`.
        batch: examples a step.
        steps_a_day: steps on each day.
        grids: names of `GRIDS` whose thresholds are searched.
        unsearched: models that candidates are not searched on, for their cost.
        overrides: of the example's spec.
        without: inputs that the model does not get.
        base: the base optimizer, of `replicas.BASES`.
        window: days in the window that batches are drawn from.
        warm_up: steps over which the learning rate rises.
        shift: what is added to the labels of `SHIFTED` from day `SHIFT_DAY` on.
        shift_days: days over which it rises, in equal steps.
    """

    models: Mapping[str, Architecture]
    rates: Mapping[str, Sequence[float]]
    batch: int
    steps_a_day: int
    grids: Sequence[str] = tuple(GRIDS)
    unsearched: Sequence[str] = ()
    overrides: Sequence[str] = ()
    without: Sequence[str] = ()
    base: str = "adagrad"
    window: int = 3
    warm_up: int = 0
    shift: float = 0.0
    shift_days: int = 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """Trainings that are done together."""

    stage: str
    preset: str
    name: str
    settings: tuple[Setting, ...]


_WIDTHS = {
    1: "is_live_streamer is_video_author onehot_0 onehot_12 onehot_13 onehot_14 onehot_15 "
    "onehot_16 onehot_17",
    2: "hour video_type music_type onehot_4 onehot_5 onehot_6 onehot_9 onehot_10 onehot_11",
    3: "upload_type user_active_degree onehot_1 onehot_2",
    4: "tags tab",
}
"""Features of the example by the width of their embeddings when the first rows were measured."""
AS_MEASURED = (
    *(
        f"features.{name}.embedding={width}"
        for width, names in _WIDTHS.items()
        for name in names.split()
    ),
    *(f"tasks.{t}.wide_categories=false" for t in ("like", "profile_enter", "open_comment")),
)
"""The example's spec goes on; a row is compared with rows of the same inputs."""


def spec_of(protocol: Protocol, model: str) -> RankingSpec:
    """Returns the example's spec, as it was measured, with one of the protocol's models."""
    spec = load_spec("examples/kuairand/spec.yaml", [*AS_MEASURED, *protocol.overrides])
    features = {n: f for n, f in spec.features.items() if n not in protocol.without}
    return spec.model_copy(update={"model": protocol.models[model], "features": features})


def cells_of(
    preset: str,
    name: str,
    grid: Sequence[Rule],
    stage: str,
    rates: Sequence[float],
    seeds: Sequence[int],
    n: int,
) -> list[Cell]:
    """Returns a grid's trainings at every rate and seed, `n` at a time."""
    wanted = [Setting(rule, rate, seed) for seed in seeds for rule in grid for rate in rates]
    parts = [wanted[start : start + n] for start in range(0, len(wanted), n)]
    # One program for all: a part that is not full does some again.
    return [Cell(stage, preset, name, tuple((part * n)[:n])) for part in parts]


def search_cells(protocol: Protocol, seeds: Sequence[int], n: int) -> list[Cell]:
    """Returns what thresholds are chosen by."""
    return [
        cell
        for name in protocol.grids
        for preset in protocol.models
        if name in RIVALS or preset not in protocol.unsearched
        for cell in cells_of(
            preset, name, GRIDS[name], "search", protocol.rates["search"], seeds, n
        )
    ]


def chosen(rows: Sequence[dict[str, Any]], preset: str) -> dict[str, Rule]:
    """Chooses thresholds by the mean AUC of the click over the rates of the search.

    Rivals get the best of their grid for each model, candidates one for all models; of the
    candidates the two best families are taken.
    """

    def score(name: str, rule: Rule, only: str | None) -> float:
        values = [
            row["metrics"]["click"] if row["metrics"]["click"] > 0 else 0.5
            for row in rows
            if row["name"] == name
            and row["stage"] == "search"
            and row["rule"] == dataclasses.asdict(rule)
            and only in (None, row["model"])
        ]
        return float(np.mean(values)) if values else 0.0

    best = {
        name: max(
            ((score(name, rule, preset if name in RIVALS else None), i) for i, rule in enumerate(g))
        )
        for name, g in GRIDS.items()
    }
    taken = sorted(CANDIDATES, key=lambda name: -best[name][0])[:2]
    result = {name: GRIDS[name][best[name][1]] for name in (*RIVALS, *taken) if best[name][0]}
    return {**FIXED, **result}


def report_cells(
    protocol: Protocol,
    rules_of: Callable[[str], Mapping[str, Rule]],
    seeds: Sequence[int],
    n: int,
    rates: Sequence[float] = (),
) -> list[Cell]:
    """Returns what is reported, some seeds of every rule before more of any.

    Args:
        protocol: what is compared.
        rules_of: gives a model's rules by name.
        seeds: of the report.
        n: trainings that are done together.
        rates: learning rates; all of the report if there are none.
    """
    rates = rates or protocol.rates["report"]
    size = max(1, n // len(rates))
    groups = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    return [
        cell
        for group in groups
        for preset in protocol.models
        for name, rule in rules_of(preset).items()
        for cell in cells_of(preset, name, [rule], "report", rates, group, n)
    ]


def rows_of(
    cell: Cell, trainings: Trainings, done: dict[str, Any], eval_rows: np.ndarray, base_loss: float
) -> list[dict[str, Any]]:
    """Describes each training of a cell."""
    log = trainings.log
    labels, weights = (np.asarray(log.columns[n])[eval_rows] for n in ("labels", "weights"))
    found = {}
    for i, setting in enumerate(cell.settings):
        curve, outputs = done["loss"][:, i].astype(np.float64), done["outputs"][i]
        metrics = {}
        for task, name in enumerate(log.tasks):
            here = weights[:, task] > 0
            y, x = labels[here, task], outputs[here, task].astype(np.float64)
            metrics[name] = (auc if task < log.binary else rmse)(y, x)
        highest = curve[: len(curve) // SMOOTHED * SMOOTHED].reshape(-1, SMOOTHED).max(axis=1)
        last = float(curve[-64:].mean())
        dead = bool((np.ptp(outputs, axis=0) < 1e-6).any())
        finite = bool(done["finite"][i] and np.isfinite(curve).all())
        row = {
            "stage": cell.stage,
            "model": cell.preset,
            "name": cell.name,
            "rule": dataclasses.asdict(setting.rule),
            "rate": setting.rate,
            "seed": setting.seed,
            "steps": len(curve),
            "metrics": metrics,
            "loss_first": float(curve[0]),
            "loss_largest": float(np.nanmax(curve)),
            "loss_last": last,
            "loss_constant": base_loss,
            "jumped": bool(not finite or curve.max() > 2 * curve[0]),
            "diverged": bool(not finite or dead or not last < base_loss),
            "dead": dead,
            "finite": finite,
            "curve": [float(f"{x:.4g}") for x in highest],
            "seconds_of_all": round(done["seconds"], 2),
        }
        found[json.dumps([row["rule"], row["rate"], row["seed"]])] = row
    return list(found.values())


class Bench:
    """Does cells, and writes a line for each training that was not done before.

    Attributes:
        rows: what is known, as the lines of the output.
        trainings: by model.
        day: number of each event's day.
        compiling: where programs are compiled.
    """

    def __init__(self, protocol: Protocol, data: str, output: str, replicas: int) -> None:
        """Reads the data and makes a model for each size.

        Args:
            protocol: what is compared.
            data: of `examples.kuairand.arrays`.
            output: JSON lines; read if it is there, and added to.
            replicas: trainings that are done together.
        """
        self.started = time.perf_counter()
        with np.load(data) as stored:
            arrays = dict(stored.items())
        self.protocol, self.n, self.path = protocol, replicas, output
        self.day = arrays["day"]
        risen = np.clip((self.day - SHIFT_DAY + 1) / protocol.shift_days, 0.0, 1.0)
        arrays[label_key(SHIFTED)] += (protocol.shift * risen).astype(np.float32)[:, None]
        specs = {name: spec_of(protocol, name) for name in protocol.models}
        log = Log(arrays, next(iter(specs.values())))
        sample = np.flatnonzero(self.day < protocol.window)
        self.trainings = {
            name: Trainings(spec, log, replicas, sample, arrays, protocol.base)
            for name, spec in specs.items()
        }
        self.rows: list[dict[str, Any]] = []
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                self.rows = [json.loads(line) for line in file]
        self.compiling = concurrent.futures.ThreadPoolExecutor(COMPILERS)
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def do(self, cells: Sequence[Cell], until: float = float("inf")) -> None:
        """Does cells until so many seconds after the start; says which it has no time for."""
        known = {_key(row) for row in self.rows}
        base = self.protocol.base
        cells = [c for c in cells if not all(_key_of(c, s, base) in known for s in c.settings)]
        # On a CPU compiling ahead would only hold up the first results.
        if jax.default_backend() != "cpu":
            for cell in cells:
                self.trainings[cell.preset].prepare(cell.settings, self.compiling)
        slowest: dict[str, float] = {}
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            writing = []
            for cell in cells:
                now = time.perf_counter() - self.started
                if now + slowest.get(cell.preset, 0.0) > until:
                    print(f"{now:.0f} s: no time for {cell.preset} {cell.name}", flush=True)
                    continue
                days = DAYS[cell.stage]
                own = self.trainings[cell.preset]
                own.prepare(cell.settings, self.compiling)
                eval_rows = np.flatnonzero(self.day == days)
                eval_rows = eval_rows[: len(eval_rows) // CHUNKS * CHUNKS]
                orders = {s.seed: self.order(days, s.seed) for s in cell.settings}
                done = own.train(cell.settings, orders, eval_rows, self.protocol.warm_up)
                whole = time.perf_counter() - self.started - now
                slowest[cell.preset] = done["seconds"] + 1.0
                writing.append(pool.submit(self._write, cell, done, eval_rows))
                print(
                    f"{now + whole:.0f} s: {cell.preset} {cell.name} {cell.stage}: "
                    f"{done['seconds']:.1f} of {whole:.1f} s",
                    flush=True,
                )
            for written in writing:
                written.result()

    def order(self, days: int, seed: int) -> np.ndarray:
        """Returns the batches of so many days, as `Log.order`."""
        if (days, seed) not in self._orders:
            log = next(iter(self.trainings.values())).log
            own = self.protocol
            order = log.order(days, own.steps_a_day, own.batch, own.window, seed)
            self._orders[days, seed] = order
        return self._orders[days, seed]

    def _write(self, cell: Cell, done: dict[str, Any], eval_rows: np.ndarray) -> None:
        own = self.trainings[cell.preset]
        days = DAYS[cell.stage]
        window = (self.day < days) & (self.day >= days - self.protocol.window)
        rows = rows_of(cell, own, done, eval_rows, own.base_loss(np.flatnonzero(window)))
        device, base = jax.devices()[0].device_kind, self.protocol.base
        head = {"device": device, "jax": jax.__version__, "base": base}
        known = {_key(row) for row in self.rows}
        rows = [new for row in rows if _key(new := {**head, **row}) not in known]
        with open(self.path, "a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")
        self.rows += rows


def _key(row: dict[str, Any]) -> str:
    base = row.get("base", "adagrad")  # older rows have none
    return json.dumps([base, *(row[n] for n in ("stage", "model", "name", "rule", "rate", "seed"))])


def _key_of(cell: Cell, setting: Setting, base: str) -> str:
    rule = dataclasses.asdict(setting.rule)
    own = (cell.stage, cell.preset, cell.name, rule, setting.rate, setting.seed)
    return json.dumps([base, *own])
