"""An engine as others hold it: built from settings, run in a process or a thread, reached through a client."""
