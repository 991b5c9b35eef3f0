"""zif's tpu backend: the same model files on JAX, compiled by XLA, with Pallas kernels of its own."""
