"""Grafana's JSON of the dashboards, by Grafana's own builders. ``python -m deploy.monitoring.render`` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar, assert_never

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from deploy.monitoring.board import Board, Panel
from deploy.monitoring.boards import BOARDS

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"
FIRST_ROW_ID = 1000
P = TypeVar("P", timeseries.Panel, stat.Panel, table.Panel)
SOURCE = models.DataSourceRef(type_val="prometheus", uid="prometheus")  # as provisioned


def render(board: Board) -> str:
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["shira"])
        .readonly()
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(_variable("job", "label_values(shira_build_info, job)"))
        .with_variable(_variable("instance", 'label_values(shira_build_info{job=~"$job"}, instance)'))
        .annotation(_firing_alerts())
        .link(_other_boards())
    )
    numbers = iter(board.panels())
    for place, row in enumerate(board.rows):
        built.with_row(dashboard.Row(row.title).id(FIRST_ROW_ID + place))
        for number, panel in (next(numbers) for _ in row.panels):
            built.with_panel(_panel(number, panel))
    return json.dumps(built.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def path_of(board: Board) -> Path:
    return FOLDER / f"{board.uid}.json"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _firing_alerts() -> dashboard.AnnotationQuery:
    """A band over every chart while an alert fires."""
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("red")
        .expr('ALERTS{alertstate="firing", job=~"$job"}')
    )


def _other_boards() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("shira")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags(["shira"])
        .keep_time(True)
        .include_vars(True)
    )


def _panel(number: int, panel: Panel) -> timeseries.Panel | stat.Panel | table.Panel:
    match panel.kind:
        case "lines":
            return _with_common(_lines(panel), number, panel)
        case "number":
            return _with_common(_number(), number, panel)
        case "table":
            return _with_common(table.Panel(), number, panel)
        case _:
            assert_never(panel.kind)


def _lines(panel: Panel) -> timeseries.Panel:
    lines = timeseries.Panel().min(0).fill_opacity(10).show_points(common_models.VisibilityMode.NEVER)
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST).show_legend(True)
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    lines.legend(legend.placement(common_models.LegendPlacement.BOTTOM)).tooltip(tooltip)
    return lines.max(1) if panel.is_share else lines


def _number() -> stat.Panel:
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    return stat.Panel().reduce_options(last).color_mode(common_models.BigValueColorMode.BACKGROUND)


def _with_common(built: P, number: int, panel: Panel) -> P:
    built.id(number).title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    built.span(panel.width).height(panel.height)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.promql).legend_format(query.legend)
        if panel.kind == "table":
            target.instant().format(prometheus_models.PromQueryFormat.TABLE)
        built.with_target(target)
    if panel.thresholds:
        steps = [models.Threshold(value=None, color=panel.thresholds[0][1])]
        steps += [models.Threshold(value=value, color=color) for value, color in panel.thresholds]
        built.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        built.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    if panel.names:
        called = {value: models.ValueMappingResult(text=name) for value, name in panel.names}
        built.mappings([models.ValueMap(options=called)])
    return built


def main() -> None:
    for board in BOARDS:
        path_of(board).write_text(render(board))
        print(path_of(board))


if __name__ == "__main__":
    main()
