"""Which rule at which width, at full width on a GPU: `python -m experiments.widths --help`."""

from __future__ import annotations

import argparse

from experiments.bench import Bench, Protocol, chosen, report_cells, search_cells
from schemas.training import PRESETS


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="of examples.kuairand.arrays")
    parser.add_argument("--output", required=True, help="JSON lines; added to")
    parser.add_argument("--models", nargs="+", default=["large_dcn", "large", "small"])
    parser.add_argument("--search-seeds", nargs="+", type=int, default=[101])
    parser.add_argument("--report-seeds", nargs="+", type=int, default=list(range(1, 31)))
    parser.add_argument("--replicas", type=int, default=8, help="trained together")
    parser.add_argument("--steps-a-day", type=int, default=64)
    parser.add_argument("--search-until", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--report-until", type=float, default=float("inf"), help="seconds")
    options = parser.parse_args()
    protocol = Protocol(
        models={name: PRESETS[name] for name in options.models},
        rates={"search": (0.1, 0.5), "report": (0.05, 0.1, 0.2, 0.5)},
        batch=512,
        steps_a_day=options.steps_a_day,
        unsearched=("small",),
    )
    bench = Bench(protocol, options.data, options.output, options.replicas)
    bench.do(search_cells(protocol, options.search_seeds, bench.n), options.search_until)
    for name in protocol.models:
        print(name, chosen(bench.rows, name), flush=True)
    cells = report_cells(
        protocol, lambda model: chosen(bench.rows, model), options.report_seeds, bench.n
    )
    bench.do(cells, options.report_until)


if __name__ == "__main__":
    main()
