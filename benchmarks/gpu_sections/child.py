"""The process of one part: ``python -m gpu_sections.child JOB``, the job as JSON."""

import importlib
import json
import sys
import traceback

from gpu_sections.job import Job

__all__ = ["main"]


def main() -> int:
    """Call the part's functions; where one fails its last line stands in the results, all of them in the log."""
    job = Job(**json.loads(sys.argv[1]))
    failed = [name for name in job.functions if not _called(name, job)]
    return len(failed)


def _called(name: str, job: Job) -> bool:
    print(f"\n== {name} {job.arguments or ''}", flush=True)
    module, _, function = name.rpartition(".")
    try:
        getattr(importlib.import_module(module), function)(job, **job.arguments)
    except Exception as error:
        traceback.print_exc()
        job.add(function=name, arguments=job.arguments, error=f"{type(error).__name__}: {error}"[:500])
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
