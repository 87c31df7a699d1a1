"""``shira demo``: the whole story on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import click

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
PICTURES = EXAMPLES / "emoji"
SHEET = REPOSITORY / ".cache" / "demo-pictures.png"

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--examples", "examples_dir", type=_FOLDER, default=EXAMPLES, help="Folder of adapters.")
@click.option(
    "--pictures",
    "pictures_dir",
    type=_FOLDER,
    default=PICTURES,
    help="Folder of a pipeline (model), adapters of it, and prompts.txt.",
)
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), default=SHEET, help="Where pictures go.")
@click.option("--model", help="By default the base that the example adapters were made for.")
@click.option("--prompt", help="What to ask.")
def demo(examples_dir: Path, pictures_dir: Path, sheet: Path, **given: str | None) -> None:
    """Start a server, upload the example adapters, ask the base, each adapter and two fused, and stop; then the same
    with a base that draws."""
    from server.core.config import load_config
    from server.demo.story import DemoOptions, run

    config = load_config({}, os.environ)
    chosen = {name: value for name, value in given.items() if value is not None}
    run(
        DemoOptions(
            examples_dir=examples_dir,
            models_dir=config.models_path,
            pictures_dir=pictures_dir,
            sheet=sheet,
            **chosen,
        )
    )
