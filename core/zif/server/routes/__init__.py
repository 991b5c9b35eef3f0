"""The endpoints, a file a kind; each file has a function that makes its router for a service."""
