"""The process of one part: ``python -m gpu_sections.child JOB``, the job as JSON."""

import importlib
import json
import sys

from gpu_sections.job import Job

__all__ = ["main"]


def main() -> int:
    """Call the part's functions in turn; the exit code is 1 where one failed, or a part of it."""
    job = Job(**json.loads(sys.argv[1]))
    for name in job.functions:
        print(f"\n== {name} {job.arguments or ''}", flush=True)
        with job.attempt(name):
            module, _, function = name.rpartition(".")
            getattr(importlib.import_module(module), function)(job, **job.arguments)
    return 1 if job.failed else 0


if __name__ == "__main__":
    sys.exit(main())
