"""``shira overlap``: how likely adapters are to disturb each other."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(context_settings={"max_content_width": 120})
@click.argument("adapters", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="PNG of heat maps to write.")
@click.option("--json", "is_json", is_flag=True, help="Print as JSON, with the figures of every weight.")
def overlap(*, adapters: tuple[Path, ...], plot: Path | None, is_json: bool) -> None:
    """Compare every pair of native ADAPTERS of one base: positions they share, opposite signs, the cosine of the
    deltas, and per weight AWOM = ‖AᵀB‖ (Frobenius) and AWOR = 1 − nnz(AᵀB)/m² of the SHiRA paper."""
    import json
    from dataclasses import asdict

    from adapters_store.tools.overlap_report import OverlapOptions, overlap_report, render

    report = overlap_report(OverlapOptions(adapters=adapters, plot=plot))
    click.echo(json.dumps(asdict(report), indent=2, ensure_ascii=False) if is_json else render(report))
