"""``python -m loadtest.chaos [fault …]``: breaks things under load and tells what was lost.

Exit code 1 if any law was broken.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loadtest.chaos.bases import BASES
from loadtest.chaos.faults import FAULTS
from loadtest.chaos.report import Report, headline, table, write_report
from loadtest.chaos.trial import Settings, Trial

MODELS = {fault: ["tiny"] for fault in FAULTS} | {"sigkill": ["tiny", "emoji", "default"], "memory": ["emoji"]}
SHARES = {"tiny": 3, "emoji": 1, "default": 1}  # of the kills


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    trials: list[Trial] = []
    with _scratch(options.scratch) as scratch:
        bases = {name: make(scratch) for name, make in BASES.items() if name in _models(options)}
        for fault, base, settings in _plan(options):
            trial = Trial(fault, bases[base], scratch / f"{fault}-{base}", settings)
            trials.append(trial)
            trial.run(FAULTS[fault])
    report = Report(seed=options.seed, trials=trials)
    print(table(trials))
    print(headline(report))
    print("\n".join(report.problems) or "every law held")
    if options.report is not None:
        write_report(report, options.report)
    return 1 if report.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos", description=__doc__)
    parser.add_argument(
        "faults", nargs="*", choices=[*FAULTS, []], metavar="fault", help=f"of {', '.join(FAULTS)}; all by default"
    )
    parser.add_argument("--kills", type=int, default=50, help="how many times sigkill kills, over all bases (50)")
    parser.add_argument(
        "--hold", type=float, default=5.0, help="seconds that each state of a fault lasts under load (5)"
    )
    parser.add_argument("--model", choices=BASES, action="append", help="serve this base, whatever the fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write report.md and report.json into this directory")
    parser.add_argument("--scratch", type=Path, help="where data directories and logs are made, and stay")
    return parser


@contextmanager
def _scratch(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="shira-chaos-") as directory:
        yield Path(directory)


def _plan(options: argparse.Namespace) -> Iterator[tuple[str, str, Settings]]:
    for fault in options.faults or FAULTS:
        models = options.model or MODELS[fault]
        shares = _shared_out(options.kills, [SHARES[model] for model in models])
        for model, num_kills in zip(models, shares, strict=True):
            yield fault, model, Settings(seed=options.seed, num_kills=num_kills, hold_s=options.hold)


def _models(options: argparse.Namespace) -> set[str]:
    return {model for _, model, _ in _plan(options)}


def _shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers that add up to ``total``; the first takes what is left over."""
    shares = [total * weight // sum(weights) for weight in weights]
    return [shares[0] + total - sum(shares), *shares[1:]]


if __name__ == "__main__":
    sys.exit(main())
