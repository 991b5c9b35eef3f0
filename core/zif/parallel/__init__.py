"""Ranks that are processes: the leader tells followers what to launch."""
