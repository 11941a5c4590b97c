"""One process of a run that its parent started: `python -m alignkit.launch.worker FOLDER`."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from pathlib import Path

from alignkit import journey, ranks
from alignkit.console import log
from alignkit.console.libraries import kept_quiet
from alignkit.errors import AlignkitError
from alignkit.launch import failures

REQUEST = "request"
"""File of the folder: the pickled request of the parent, for its children alone."""


def main() -> int:
    """Do this process's part; the exit code."""
    os.dup2(2, 1)  # the parent prints the answer
    folder = Path(os.environ[failures.FOLDER])
    begun, verbosity = pickle.loads((folder / REQUEST).read_bytes())
    log.set_verbosity(verbosity if ranks.is_first() else log.SILENT)
    try:
        with kept_quiet():
            ranks.meet(on_cpu=begun.composed.recipe.launch.device == "cpu")
            journey.join(begun if ranks.is_first() else None)
    except AlignkitError as error:
        failures.record(str(error), error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        trace = traceback.format_exc() if verbosity >= log.VERBOSE else ""
        failures.record(f"{trace}Something failed that alignkit did not expect. {type(error).__name__}: {error}", 1)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads of a broken process group may not end by themselves
