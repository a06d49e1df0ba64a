"""A name for the text that decides what becomes of a mutant, by which one sees that nothing of it has changed.

What it runs on is not in it: the compiler, torch and numpy.
"""

import hashlib
from pathlib import Path

from jellyplus import surrogate
from mutate_kernels.kernels import KERNELS

_HERE = Path(__file__).parent
_FOLDERS = (_HERE, _HERE.parent / "cuda_on_cpu")


def digest() -> str:
    """SHA-256 of the kernels' text and of the files that change, build, run and check it, cut to 16 digits."""
    files = [*_files(), Path(surrogate.__file__)]  # the last has the slow truth's functions, too
    content = [*(kernel.code.encode() for kernel in KERNELS.values()), *(path.read_bytes() for path in files)]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]


def _files() -> list[Path]:
    return [path for folder in _FOLDERS for path in sorted(folder.iterdir()) if path.suffix in (".py", ".h")]
