"""``shira demo``: the whole story on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import click

EXAMPLES = Path(__file__).parents[2] / "examples"


@click.command()
@click.option(
    "--examples",
    "examples_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=EXAMPLES,
    help="Folder of adapters.",
)
@click.option("--model", help="By default the base that the example adapters were made for.")
@click.option("--prompt", help="What to ask.")
def demo(examples_dir: Path, **given: str | None) -> None:
    """Start a server, upload the example adapters, ask the base, each adapter and two fused, and stop."""
    from server.core.config import load_config
    from server.demo import DemoOptions, run

    config = load_config({}, os.environ)
    chosen = {name: value for name, value in given.items() if value is not None}
    run(DemoOptions(examples_dir=examples_dir, models_dir=config.models_path, **chosen))
