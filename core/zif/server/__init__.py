"""The HTTP server: OpenAI's endpoints and SGLang's, over a :class:`~zif.frontend.Frontend`."""

from zif.server.app import create_app
from zif.server.options import ServerOptions
from zif.server.runner import run_server, serve

__all__ = ["ServerOptions", "create_app", "run_server", "serve"]
