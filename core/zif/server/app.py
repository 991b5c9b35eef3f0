"""The FastAPI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import zif
from zif.frontend import Frontend
from zif.server.errors import install_error_handlers
from zif.server.gate import Gate
from zif.server.options import ServerOptions
from zif.server.routes.admin import health_router, models_router, operator_router
from zif.server.routes.chat import chat_router
from zif.server.routes.completions import completions_router
from zif.server.routes.generate import generate_router
from zif.server.routes.tokens import tokens_router
from zif.server.service import Service


def create_app(frontend: Frontend, options: ServerOptions | None = None) -> FastAPI:
    """Return the HTTP application over ``frontend``, whose engine the caller starts and stops.

    ``app.state.service`` is its :class:`~zif.server.service.Service`.
    """
    service = Service(frontend, options or ServerOptions())
    app = FastAPI(
        title="zif", version=zif.__version__, description="OpenAI-compatible LLM server", redirect_slashes=False
    )
    app.state.service = service
    install_error_handlers(app)
    app.add_middleware(Gate, service=service)
    if service.options.cors_origins:  # outside of the gate: browsers ask before they send a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.options.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            allow_credentials=False,  # keys are sent as a header, and cookies there are none
            max_age=600,
        )
    for make in (
        chat_router,
        completions_router,
        generate_router,
        tokens_router,
        models_router,
        health_router,
        operator_router,
    ):
        app.include_router(make(service))
    return app
