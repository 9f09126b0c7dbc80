"""Results as pages: words, figures and tables, self-contained.

`page` writes any page; `study`, `model` and `theory` say what goes where on theirs.
"""

from __future__ import annotations

from initstats.report.study import write_report

__all__ = ["write_report"]
