"""One rank that runs several requests in turn: `python -m tests.launch.driver REQUESTS RANK WORLD PORT`.

Starting python and importing torch takes seconds, and a tiny run takes one: so many runs share two processes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    requests, rank, world, port = sys.argv[1:]
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ |= {**names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    from alignkit import journey
    from tests.launch.stopping import stop_after

    for name, words, stop in json.loads(Path(requests).read_text(encoding="utf-8")):
        with stop_after(stop):
            journey.train(name, words)


if __name__ == "__main__":
    main()
