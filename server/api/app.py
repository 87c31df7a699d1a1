"""The FastAPI application: routes, middleware and handlers put together."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI
from starlette.middleware import Middleware

from server import __version__
from server.api import adapters, admin, generate, generate_images, health, overlap
from server.api.auth import Authentication
from server.api.body_limit import BodyLimit
from server.api.errors import OUR_FAULTS, ErrorAnswer, install_error_handlers, judge
from server.api.outcomes import GENERATIONS, Outcomes
from server.api.scratch import clear_scratch
from server.api.services import Services
from server.api.stalled_readers import StalledReaders
from server.api.tracing import Traces

DOCUMENTED_ERRORS = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503, 504, 507)


def build_api(services: Services) -> FastAPI:
    """Removes what a killed process left of unfinished transfers; the data directory must be this process's own."""
    clear_scratch(services.config.data_dir)
    app = FastAPI(
        title="shira-server",
        version=__version__,
        description="Sparse adapters switched exactly over one base model.",
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # it may quote prompts
        responses={status: {"model": ErrorAnswer} for status in DOCUMENTED_ERRORS},
        middleware=[  # outermost first
            Middleware(Traces, tracing=services.tracing),
            Middleware(Outcomes, metrics=services.metrics, judge=judge),
            Middleware(StalledReaders),
            Middleware(Authentication, keys=services.keys, is_loopback=services.config.is_loopback),
            Middleware(BodyLimit, max_upload_bytes=services.config.max_body_bytes),
        ],
    )
    services.metrics.expect(routes=GENERATIONS, faults=OUR_FAULTS)
    services.metrics.at_scrape(partial(services.traffic.publish, services.metrics))
    app.state.services = services
    install_error_handlers(app)
    generation = generate if services.base.pictures is None else generate_images
    for module in (generation, adapters, overlap, health, admin):
        app.include_router(module.router)
    return app
