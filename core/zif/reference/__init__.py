"""Framework references: every op in plain torch or JAX, and what a backend on either can build on.

With the portable kernels, the only rooms of core that know a tensor library.
"""
