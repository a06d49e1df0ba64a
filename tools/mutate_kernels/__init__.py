"""Changes every statement of the CUDA kernels in turn and asks whether the kernels' checks notice.

    python tools/mutate_kernels [--output benchmarks/mutations.md | --check] [--jobs 2]

The text that a kernel is made of (``kernels``) is parsed into ``statements``; each is changed in every way that
``operators`` knows, which makes the ``mutants``; and the kernels that hold it are compiled for the CPU and ``run``. A
mutant is caught where it does not compile, crashes, takes more than a second of processor time, or gives other numbers
than a slow loop in float64 under autograd (``cases``). Memory is laid out so that an access out of range is a crash or
a difference (``memory``). What is not caught must be right: ``survivors`` says why, and ``report`` shows it.

Not changed is what bfloat16 has of its own, its conversions and the CPU's block (the GPU's is that of half2): the
parity tests compare its bits with those of float32, rounded once.

``--check`` runs them only if the digest in benchmarks/mutations.md is not today's (``digest``), and fails then until
the report is written again. It needs Linux and g++ 12 or newer.
"""
