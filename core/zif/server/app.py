"""The FastAPI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import zif
from zif.frontend import Frontend
from zif.server.body import paths_of
from zif.server.errors import install_error_handlers
from zif.server.gate import Gate
from zif.server.options import ServerOptions
from zif.server.routes import ROUTERS
from zif.server.service import Service


def create_app(frontend: Frontend, options: ServerOptions | None = None) -> FastAPI:
    """Return the HTTP application over ``frontend``, whose engine the caller starts and stops.

    ``app.state.service`` is its :class:`~zif.server.service.Service`, ``app.state.probes`` the paths of its probes.
    """
    service = Service(frontend, options or ServerOptions())
    app = FastAPI(
        title="zif", version=zif.__version__, description="OpenAI-compatible LLM server", redirect_slashes=False
    )
    app.state.service = service
    install_error_handlers(app)
    routers = [make(service) for make in ROUTERS]
    routes = [route for router in routers for route in router.routes]
    app.state.probes = paths_of("probe", routes)
    app.add_middleware(Gate, service=service, routes=routes)
    if service.options.cors_origins:  # outside of the gate: browsers ask before they send a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.options.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            allow_credentials=False,  # keys are sent as a header, and cookies there are none
            max_age=600,
        )
    for router in routers:
        app.include_router(router)
    return app
