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
@click.option("--model", help="By default the server's default.")
@click.option("--prompt", help="What to ask.")
def demo(examples_dir: Path, model: str | None, prompt: str | None) -> None:
    """Start a server, upload the example adapters, ask the base, each adapter and two fused, and stop."""
    from server.core.config import load_config
    from server.demo import DemoOptions, run

    config = load_config({"model": model}, os.environ)
    given = {"prompt": prompt} if prompt is not None else {}
    run(DemoOptions(examples_dir=examples_dir, model=model, models_dir=config.models_path, **given))
