"""zif's cpu backend: torch, with packed weights and kernels that are compiled for the machine at first use."""
