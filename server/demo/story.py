"""The demo from beginning to end: texts, then pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.demo.process import say
from server.demo.text import EXAMPLES_BASE, PROMPT, tell_of_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """``models_dir`` keeps converted base models; the servers' own data directories are gone afterwards. The example
    adapters belong to the base from the registry package: the hub's copy holds other bytes, and native files are
    refused on it. ``pictures_dir``: a folder with a pipeline and adapters of it; None leaves pictures out.
    ``sheet``: where they are written to."""

    examples_dir: Path
    models_dir: Path
    pictures_dir: Path | None = None
    sheet: Path = Path("demo-pictures.png")
    model: str = EXAMPLES_BASE
    prompt: str = PROMPT


def run(options: DemoOptions) -> None:
    """Prints the whole story. Raises DemoFailed when an answer is not what it must be."""
    tell_of_texts(options.examples_dir, options.models_dir, model=options.model, prompt=options.prompt)
    if options.pictures_dir is not None:
        from server.demo.pictures import draw_pictures  # an installation for texts alone lacks what it needs

        say("\nA second server, for pictures:")
        draw_pictures(options.pictures_dir, options.models_dir, options.sheet)
