"""The sections of ``benchmarks/gpu.py``: each of their parts is a function that a child process calls with its job."""
