"""Pallas kernels for TPUs, as plain functions: no contract here, so that each can be read and tested alone."""
