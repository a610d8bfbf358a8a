"""Statistics of steps, for tests of what reads them."""

import dataclasses

import numpy as np

from trainer_module.stability.statistics import StepStatistics


def cut(statistics, first, end):
    """The steps from `first` on, before `end`."""
    arrays = {
        field.name: getattr(statistics, field.name)[first:end]
        for field in dataclasses.fields(StepStatistics)
        if isinstance(getattr(statistics, field.name), np.ndarray)
    }
    return dataclasses.replace(statistics, first_step=statistics.first_step + first, **arrays)
