"""``shira bench``: measurements on this machine."""

from __future__ import annotations

import click


@click.group()
def bench() -> None:
    """Measure on this machine."""


@bench.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def switch(arguments: tuple[str, ...]) -> int:
    """Time switching against LoRA, PEFT, torch and the floor (see shira bench switch --help)."""
    from adapters_store.tools import bench_switch

    return bench_switch.main(arguments)
