"""Planted statistics of training steps: what happened, and when, is known."""

from __future__ import annotations

import dataclasses

import numpy as np

from trainer_module.stability.statistics import StepStatistics

TASKS = ("click", "rare", "watch")
BINARY = ("click", "rare")
LAYERS = ("embedding/table", "shared_0/kernel", "shared_1/kernel", "head_click/bias")
LEVELS = np.array([0.6, 0.1, 1.0])
"""Losses of a trained model, by task."""
AUCS = np.array([0.72, 0.75])
NOISES = (
    "quiet",
    "noisy",
    "heavy tails",
    "autocorrelated",
    "drifting",
    "falling",
    "few positives",
    "one positive",
)
FULL = ("nan", "constant", "slow", "dead", "chance", "frozen")


@dataclasses.dataclass
class Curves:
    """Statistics in the making; arrays as in `StepStatistics`."""

    task_loss: np.ndarray
    auc: np.ndarray
    gradient_norm: np.ndarray
    skipped: np.ndarray

    def statistics(self) -> StepStatistics:
        """Returns them as a training reports them."""
        norms = self.gradient_norm.astype(np.float32)
        sigma = np.where(self.skipped, 0.0, 1.0).astype(np.float32)
        task_loss = self.task_loss.astype(np.float32)
        return StepStatistics(
            first_step=0,
            tasks=TASKS,
            binary_tasks=BINARY,
            layers=LAYERS,
            loss=task_loss.sum(axis=1, dtype=np.float32),
            task_loss=task_loss,
            auc=self.auc.astype(np.float32),
            gradient_norm=norms,
            update_norm=0.01 * norms,
            sigma_min=sigma,
            sigma_mean=sigma,
            skipped=self.skipped,
        )


def healthy(noise: str, steps: int, seed: int) -> Curves:
    """A training without any event.

    Args:
        noise: one of `NOISES`: scatter of 2 % or 10 % from batch to batch; squared errors
            with single batches many times the usual; scatter that lasts for ten steps; a
            slow rise by 30 %; a loss that falls from the value of a constant predictor; a
            task with one positive in four batches of 64; one with a positive in every
            other batch of 32.
        steps: number of steps.
        seed: of the noise.
    """
    rng = np.random.default_rng([NOISES.index(noise), seed])
    scatter = 0.02 if noise == "quiet" else 0.1
    log_loss = np.log(LEVELS) + scatter * rng.normal(size=(steps, 3)) * [0.5, 1.5, 1.0]
    if noise == "heavy tails":
        log_loss[:, 2] = 0.2 * rng.standard_t(3, steps)
        log_loss[:, 2] += np.where(rng.random(steps) < 0.02, rng.uniform(1.0, 4.0, steps), 0.0)
    if noise == "autocorrelated":
        log_loss = np.log(LEVELS) + 0.05 * _lasting(rng, steps, 3, 0.9)
    if noise == "drifting":
        log_loss += np.linspace(0.0, np.log(1.3), steps)[:, None]
    if noise == "falling":
        log_loss += np.log1p(0.4 * np.exp(-np.arange(steps) / 150.0))[:, None]
    if noise == "few positives":
        # Log loss of a rate of 0.4 %: 0.004 of a negative, 5.5 of a positive, less or more.
        positives = rng.poisson(0.25, steps)
        surprise = 5.5 * positives * np.exp(0.2 * rng.normal(size=steps))
        log_loss[:, 1] = np.log(0.004 + surprise / 64)
    if noise == "one positive":
        # Of a rate of 2 %: the median batch has none, or one, as it happens.
        positives = rng.poisson(np.log(2.0), steps)
        surprise = 3.5 * positives * np.exp(0.2 * rng.normal(size=steps))
        log_loss[:, 1] = np.log(0.025 + surprise / 32)
    auc = AUCS + 0.005 * _lasting(rng, steps, 2, 0.98)
    if noise == "falling":
        auc = 0.5 + (auc - 0.5) * (1.0 - np.exp(-np.arange(1, steps + 1) / 100.0))[:, None]
    auc[: min(10, steps), 1] = np.nan  # no positives yet
    norms = np.exp(0.3 * rng.normal(size=(steps, len(LAYERS))))
    return Curves(np.exp(log_loss), auc, norms, np.zeros((steps, len(LAYERS)), bool))


def with_spike(curves: Curves, start: int, width: int, height: float) -> Curves:
    """Multiplies all losses by up to 1 + `height` for `width` steps; the AUC sags meanwhile.

    A width of 1 is one hard batch.
    """
    spike = slice(start, start + width)
    shape = 1.0 - np.arange(width) / (2.0 * width)
    curves.task_loss[spike] *= 1.0 + height * shape[:, None]
    if width > 1:
        curves.auc[spike] -= np.linspace(0.0, 0.05, width)[:, None]
    return curves


def with_full(curves: Curves, start: int, shape: str) -> Curves:
    """Lets training diverge for good from `start` on.

    Args:
        curves: changed in place.
        start: first bad step.
        shape: one of `FULL`: non-finite from the tenth step on; up to 64 times the loss
            within three steps, then constant; doubled every 40 steps; an explosion of five
            steps, then dead gradients at the loss of a constant predictor; the same with
            gradients that live; one layer whose every step is skipped.
    """
    steps = len(curves.task_loss)
    after = np.arange(steps - start)
    if shape == "frozen":
        curves.skipped[start:, 1] = True
        return curves
    if shape == "slow":
        curves.task_loss[start:] *= 2.0 ** np.minimum(after / 40.0, 20.0)[:, None]
    elif shape in ("dead", "chance"):
        burst = 30.0 ** np.clip((5 - after) / 5.0, 0.0, 1.0)
        curves.task_loss[start:] *= np.where(after < 5, burst, 1.25)[:, None]
        if shape == "dead":
            curves.gradient_norm[start + 2 :, :3] = 0.0
    else:
        curves.task_loss[start:] *= 4.0 ** np.minimum(after + 1.0, 3.0)[:, None]
    if shape == "nan":
        curves.task_loss[start + 10 :] = np.nan
        curves.skipped[start + 10 :] = True
    fading = np.exp(-after / 50.0)[:, None]
    curves.auc[start:] = 0.5 + (curves.auc[start:] - 0.5) * fading
    return curves


def _lasting(rng: np.random.Generator, steps: int, columns: int, share: float) -> np.ndarray:
    """Noise of unit scatter in which `share` of each value is kept at the next step."""
    values = rng.normal(size=(steps, columns))
    for step in range(1, steps):
        values[step] = share * values[step - 1] + np.sqrt(1 - share**2) * values[step]
    return values
