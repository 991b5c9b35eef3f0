"""The ``zif`` command: one module a subcommand, each imported only when it is the one that runs."""
