"""The dashboards, in the order in which one looks at them."""

from deploy.monitoring.board import Board
from deploy.monitoring.boards.overview import OVERVIEW
from deploy.monitoring.boards.slo import SLO
from deploy.monitoring.boards.switching import SWITCHING
from deploy.monitoring.boards.tiers import TIERS

BOARDS: tuple[Board, ...] = (OVERVIEW, SWITCHING, TIERS, SLO)
