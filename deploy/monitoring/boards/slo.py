"""Are the promises kept. The objectives are those of the alerts: 0.5 % failed, 5 % slow, in 30 days."""

from __future__ import annotations

from typing import Final

from deploy.monitoring.board import Board, Panel, Query, Row, lines, quantiles
from server.core.metrics import FIRST_TOKEN_OBJECTIVE_S

AVAILABILITY_BUDGET: Final = 0.005
FIRST_TOKEN_BUDGET: Final = 0.05
JOB = '{job=~"$job"}'


def left(sli: str, budget: float) -> Query:
    return lines(f"1 - shira:{sli}:ratio_rate3d{JOB} / {budget:g}", "{{job}}")


def burn(sli: str, budget: float) -> tuple[Query, ...]:
    return tuple(
        lines(f"shira:{sli}:ratio_rate{window}{JOB} / {budget:g}", f"{{{{job}}}} {window}")
        for window in ("5m", "1h", "6h", "3d")
    )


LEFT_THRESHOLDS = ((-1e6, "red"), (0, "orange"), (0.5, "green"))
BURN = "1 spends the budget exactly in 30 days; from 14.4 over an hour, or 6 over six hours, on somebody is woken."

SLO = Board(
    uid="shira-slo",
    title="shira: objectives",
    description="Answers that do not fail (99.5 %), first tokens within 2.5 s (95 %), over 30 days.",
    rows=(
        Row(
            title="Are the promises kept?",
            panels=(
                Panel(
                    title="Budget left, availability",
                    description="What the last three days left of the share that may fail: 1 is all of it, below 0 "
                    "more "
                    "was spent than the objective allows.",
                    unit="percentunit",
                    kind="number",
                    queries=(left("unavailable", AVAILABILITY_BUDGET),),
                    thresholds=LEFT_THRESHOLDS,
                    width=6,
                ),
                Panel(
                    title="Budget left, first token",
                    description="The same for first tokens later than 2.5 s.",
                    unit="percentunit",
                    kind="number",
                    queries=(left("slow_first_token", FIRST_TOKEN_BUDGET),),
                    thresholds=LEFT_THRESHOLDS,
                    width=6,
                ),
                Panel(
                    title="Failed answers",
                    description="Share of the answers of each server that failed by our fault; the objective is 0.5 %.",
                    unit="percentunit",
                    is_share=True,
                    queries=(lines("shira:generations_failed:ratio_rate5m{@}"),),
                    width=6,
                ),
                Panel(
                    title="Refused requests",
                    description="Share of the requests of each server that got 429, or 503 while it stopped. They "
                    "count against no objective: clients come back, and more of them want more servers.",
                    unit="percentunit",
                    is_share=True,
                    queries=(lines("shira:generations_refused:ratio_rate5m{@}"),),
                    width=6,
                ),
            ),
        ),
        Row(
            title="How fast are the budgets spent?",
            panels=(
                Panel(
                    title="Budget burn, availability",
                    description=f"How fast the budget is spent, over windows of different length. {BURN}",
                    unit="short",
                    queries=burn("unavailable", AVAILABILITY_BUDGET),
                ),
                Panel(
                    title="Budget burn, first token",
                    description=f"How fast the budget is spent, over windows of different length. {BURN}",
                    unit="short",
                    queries=burn("slow_first_token", FIRST_TOKEN_BUDGET),
                ),
                Panel(
                    title="First token against the objective",
                    description="From arrival to the first token; 95 of 100 are to be faster than 2.5 s.",
                    unit="s",
                    queries=(
                        *quantiles("shira_time_to_first_token_seconds", 0.95, 0.99),
                        lines(f"vector({FIRST_TOKEN_OBJECTIVE_S:g})", "objective"),
                    ),
                ),
            ),
        ),
    ),
)
