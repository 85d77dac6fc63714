"""Runs ``lpa`` and kills its own process with SIGKILL at the nth call of a function.

    python -m tests.killed MODULE FUNCTION N COMMAND ...

A call that writes a file (``safetensors.torch:save_file``) dies with half of it on the disk.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def kill_at_call(module: str, function: str, nth: int) -> None:
    """Replaces a function of a module by one that never returns from its nth call."""
    owner, calls = import_module(module), 0
    plain = getattr(owner, function)

    def dies(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < nth:
            return plain(*args, **options)
        if function == "save_file":
            plain(*args, **options)
            path = Path(args[1])
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, function, dies)


if __name__ == "__main__":
    kill_at_call(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    from experiments.cli import main

    sys.exit(main(sys.argv[4:]))
