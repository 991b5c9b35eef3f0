"""The engine: from scheduled requests to launched device programs, and back to tokens."""
