"""``shira fuse``: several adapter files of one base become one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from adapters_store.adapter import DTypeName
    from adapters_store.blend import DeltaMethod

METHODS = ("sum", "mean", "ties", "ram")  # those of ``adapters_store.blend``, which loads torch


@click.command(context_settings={"max_content_width": 120})
@click.argument("adapters", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@click.option("--method", type=click.Choice(METHODS), default="sum", show_default=True, help="How they are fused.")
@click.option(
    "--scale",
    "scales",
    multiple=True,
    metavar="[NAME=]NUMBER",
    help="Of the adapter of that file name, 1 for those not named; or, given once per adapter, in their order.",
)
@click.option("--density", type=click.FloatRange(0, 1, min_open=True), help="Share of its entries each keeps (ties).")
@click.option(
    "--values-dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Dtype in the file; only float32 gives the words of the blend to the last bit.",
)
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
def fuse(
    *,
    adapters: tuple[Path, ...],
    output: Path,
    method: DeltaMethod,
    scales: tuple[str, ...],
    density: float | None,
    values_dtype: DTypeName,
    is_json: bool,
) -> None:
    """Fuse native ADAPTERS of one base to one file, which served at scale 1 is what their blend is."""
    import json
    from dataclasses import asdict

    from adapters_store.blend import Fusion
    from adapters_store.tools.fuse_files import FuseOptions, fuse_files
    from adapters_store.tools.native_files import short_names

    report = fuse_files(
        FuseOptions(
            adapters=adapters,
            output=output,
            scales=parse_scales(scales, short_names(adapters)),
            fusion=Fusion(method=method, density=density),
            values_dtype=values_dtype,
        )
    )
    if is_json:
        click.echo(json.dumps(asdict(report), indent=2, default=str))
        return
    for member in report.members:
        click.echo(f"{member.scale:>8g} × {member.name} {member.version}")
    click.echo(f"{report.method} of {len(report.members)}: {report.version}")
    zeros = f", {report.num_zero_values:,} of them 0" if report.num_zero_values else ""
    shared = "the members' own index set" if report.is_shared_index_set else "the union of their index sets"
    click.echo(f"{report.num_entries:,} entries{zeros} in {report.num_weights} weights, on {shared}")
    click.echo(f"written to {report.output}")


def parse_scales(texts: Sequence[str], names: Sequence[str]) -> tuple[float, ...]:
    """One per name, or none at all. Raises UsageError."""
    if not any("=" in text for text in texts):
        if texts and len(texts) != len(names):
            raise click.UsageError(f"--scale: expected {len(names)}, one per adapter, or NAME=NUMBER, got {len(texts)}")
        return tuple(map(_number, texts))
    scales = dict.fromkeys(names, 1.0)
    given: set[str] = set()
    for text in texts:
        name, _, number = text.rpartition("=")
        if name not in scales or name in given:
            problem = "is given twice" if name in given else f"expected NAME=NUMBER with one of {', '.join(names)}"
            raise click.UsageError(f"--scale {text}: {problem}")
        given.add(name)
        scales[name] = _number(number)
    return tuple(scales.values())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"--scale: expected a number, got {text!r}") from None
