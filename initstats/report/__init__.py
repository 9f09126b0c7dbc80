"""Results as pages: words, figures and tables, self-contained.

`page` writes any page; `study`, `model` and `theory` say what goes where on theirs, and
`index` links the pages of a folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from initstats.lazy import attach

if TYPE_CHECKING:
    from initstats.report.embedded import Report as Report
    from initstats.report.index import write_index as write_index
    from initstats.report.study import write_report as write_report
else:
    __getattr__, __dir__, __all__ = attach(__name__)
