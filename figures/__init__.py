"""Showing: the rows of a run directory become pictures and a report; no model, no torch.

Public names, imported on first use so that ``import figures`` loads no matplotlib:

* `draw_all`: every picture that a run directory has rows for, as PNG, PDF and CSV.
* `write_report`: ``report.html`` and ``README.md`` (the model card), pictures included.
* `load_rows`: all rows of a run directory at once.
* `FigureInfo`, `RunRows`: what the functions above return.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from figures.gallery import draw_all
    from figures.report import write_report
    from figures.rows import RunRows, load_rows
    from figures.style import FigureInfo

__all__ = ["FigureInfo", "RunRows", "draw_all", "load_rows", "write_report"]

_HOME = {
    "FigureInfo": "figures.style",
    "RunRows": "figures.rows",
    "draw_all": "figures.gallery",
    "load_rows": "figures.rows",
    "write_report": "figures.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'figures' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
