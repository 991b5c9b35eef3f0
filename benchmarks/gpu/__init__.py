"""What ``cuda_gpu.py`` and ``peers.py`` are made of: workloads, measuring, and a file for each kind of part."""
