"""zif's cpu backend: torch, oneDNN-packed weights, and kernels of its own where they pay."""
