"""The endpoints, a file a kind; each file has functions that make its routers for a service."""

from zif.server.routes.admin import health_router, models_router, operator_router
from zif.server.routes.chat import chat_router
from zif.server.routes.completions import completions_router
from zif.server.routes.generate import generate_router
from zif.server.routes.sagemaker import sagemaker_router
from zif.server.routes.tokens import tokens_router

ROUTERS = (
    chat_router,
    completions_router,
    generate_router,
    sagemaker_router,
    tokens_router,
    models_router,
    health_router,
    operator_router,
)
"""All of them, in the order of the docs page."""
