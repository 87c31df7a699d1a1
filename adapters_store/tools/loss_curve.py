"""The loss of every step as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from adapters_store.durable import write_durably

SMOOTHED_STEPS = 20


def write_loss_curve(
    path: Path,
    losses: Sequence[float],
    *,
    title: str,
    unit: str = "loss per token (nats)",
    held_out: tuple[float, float] | None = None,
) -> None:
    """A PNG. ``held_out`` is the loss before and after. Raises StorageFull, OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = range(1, len(losses) + 1)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel=unit, title=title)
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8)
    axes.plot(steps, _smoothed(losses), color="tab:blue", label=f"training, mean of {SMOOTHED_STEPS} steps")
    if held_out is not None:
        axes.plot([0, len(losses)], held_out, "o--", color="tab:orange", label="held out, before and after")
    axes.legend()
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_durably(path, [picture.getvalue()], tmp_dir=path.parent)


def _smoothed(losses: Sequence[float]) -> list[float]:
    windows = (losses[max(0, end - SMOOTHED_STEPS) : end] for end in range(1, len(losses) + 1))
    return [sum(window) / len(window) for window in windows]
