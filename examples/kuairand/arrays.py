"""KuaiRand-Pure as arrays: `python -m examples.kuairand.arrays --source DIR --output FILE.npz`.

The events are those of the converter. The file lets an experiment run where there is no
TensorFlow.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from examples import frames
from examples.kuairand import convert, source
from schemas.loading import load_spec

SPEC = str(pathlib.Path(__file__).with_name("spec.yaml"))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", required=True, help="folder of the official CSV files")
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the spec")
    options = parser.parse_args()
    spec = load_spec(SPEC, options.set)
    events = frames.with_history(convert.events_of(source.read_impressions(options.source)), spec)
    np.savez_compressed(options.output, **frames.transformed(events, spec))


if __name__ == "__main__":
    main()
