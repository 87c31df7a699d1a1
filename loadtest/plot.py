"""A run as one picture: rates, waiting, times, switches, outcomes, memory, residency. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters_store.tools.plotting import write_png
from loadtest.outcomes import Ending, Outcome
from loadtest.record import Record
from loadtest.samples import Sample
from loadtest.series import Stretches

MIB = 2**20
PERCENTS = (50, 99)
STYLES = ("-", ":")
ENDINGS: tuple[Ending, ...] = ("refused", "wrong", "lost", "left")
COLOURS = ("#2f6db3", "#d1711c", "#3a8f5c", "#8a5aa8", "#b3364a", "#6b6b6b")


def draw(record: Record, outcomes: Sequence[Outcome], samples: Sequence[Sample], path: Path) -> None:
    """Raises StorageFull, OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 14), layout="constrained")
    axes = figure.subplots(4, 2, sharex=True).flat
    stretches = Stretches.of(record.duration_s)
    _rates(next(axes), stretches, outcomes)
    _endings(next(axes), stretches, outcomes)
    _times(next(axes), stretches, outcomes, ("text: first token, time per token", "ms"), _TEXT_TIMES)
    _times(next(axes), stretches, outcomes, ("pictures and uploads, to the end", "s"), _WHOLE_TIMES)
    _switches(next(axes), outcomes)
    _memory(next(axes), record, samples)
    _gauges(next(axes), samples, "adapters resident", "adapter_resident")
    _queue(next(axes), samples)
    for one in figure.axes:
        one.set_xlim(0, record.duration_s / 60)
        one.grid(visible=True, alpha=0.25)
        one.tick_params(labelbottom=True, labelsize=8)
        one.set_xlabel("minutes", fontsize=8)
    figure.suptitle(f"{record.scenario['name']}, {record.ended_at[:10]}")
    write_png(figure, path)


_Value = Callable[[Outcome], float | None]


def _total_s(action: str) -> _Value:
    return lambda one: one.late_s + one.total_s if one.action == action and one.ending == "answered" else None


_TEXT_TIMES: dict[str, _Value] = {
    "first token": lambda one: None if one.first_text_s is None else 1e3 * (one.late_s + one.first_text_s),
    "per token": lambda one: None if one.token_s is None else 1e3 * one.token_s,
}
_WHOLE_TIMES: dict[str, _Value] = {"picture": _total_s("image"), "upload": _total_s("upload")}


def _rates(axes: Any, stretches: Stretches, outcomes: Sequence[Outcome]) -> None:
    minutes = [at_s / 60 for at_s in stretches.middles_s]
    axes.plot(minutes, stretches.rates(one.sent_s - one.late_s for one in outcomes), color=COLOURS[5], label="offered")
    answered = [one.ended_s for one in outcomes if one.ending == "answered"]
    axes.plot(minutes, stretches.rates(answered), color=COLOURS[0], label="answered")
    _finish(axes, "requests", "per second")


def _endings(axes: Any, stretches: Stretches, outcomes: Sequence[Outcome]) -> None:
    minutes = [at_s / 60 for at_s in stretches.middles_s]
    for ending, colour in zip(ENDINGS, COLOURS[1:], strict=False):
        moments = [one.ended_s for one in outcomes if one.ending == ending]
        axes.plot(minutes, stretches.rates(moments), color=colour, label=f"{ending}: {len(moments)}")
    _finish(axes, "requests not answered", "per second")


def _times(
    axes: Any,
    stretches: Stretches,
    outcomes: Sequence[Outcome],
    titles: tuple[str, str],
    values: dict[str, _Value],
) -> None:
    minutes = [at_s / 60 for at_s in stretches.middles_s]
    for (name, value), colour in zip(values.items(), COLOURS, strict=False):
        lines = stretches.percentiles(outcomes, value, PERCENTS)
        for line, percent, style in zip(lines, PERCENTS, STYLES, strict=True):
            axes.plot(minutes, line, style, color=colour, label=f"{name} p{percent}", marker=".", markersize=3)
    axes.set_yscale("log")
    _finish(axes, *titles)


def _switches(axes: Any, outcomes: Sequence[Outcome]) -> None:
    for action, colour in (("text", COLOURS[0]), ("image", COLOURS[1])):
        points = [(one.sent_s / 60, one.switch_ms) for one in outcomes if one.action == action and one.switch_ms]
        axes.plot([at for at, _ in points], [ms for _, ms in points], ".", color=colour, markersize=3, label=action)
    axes.set_yscale("log")
    _finish(axes, "switches of a request, together (receipts)", "ms")


def _memory(axes: Any, record: Record, samples: Sequence[Sample]) -> None:
    for (server, growth), colour in zip(record.memory.items(), COLOURS, strict=False):
        points = [(one.at_s / 60, one.rss_bytes / MIB) for one in samples if one.server == server]
        label = f"{server}: {growth.slope_mib_per_h:+.0f} MiB/h between its middle quarters"
        axes.plot([at for at, _ in points], [mib for _, mib in points], color=colour, label=label)
    axes.set_ylim(bottom=0)
    _finish(axes, "memory of the server processes", "MiB")


def _gauges(axes: Any, samples: Sequence[Sample], title: str, prefix: str) -> None:
    keys = {(one.server, name) for one in samples for name in one.gauges if name.startswith(prefix + "/")}
    for (server, name), colour in zip(sorted(keys), COLOURS * 2, strict=False):
        points = [(one.at_s / 60, one.gauges.get(name)) for one in samples if one.server == server]
        style = "-" if server == "text" else ":"
        label = f"{server}: {name.partition('/')[2]}"
        axes.plot([at for at, _ in points], [value for _, value in points], style, color=colour, label=label)
    _finish(axes, title, "adapters")


def _queue(axes: Any, samples: Sequence[Sample]) -> None:
    for server, colour in zip(dict.fromkeys(one.server for one in samples), COLOURS, strict=False):
        points = [(one.at_s / 60, one.gauges.get("queue_depth")) for one in samples if one.server == server]
        axes.plot([at for at, _ in points], [depth for _, depth in points], color=colour, label=server)
    _finish(axes, "queue depth", "requests")


def _finish(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(unit, fontsize=8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="best")
