"""A run as one page to read: what the network gets wrong, where it looked, and what stands out.

:func:`write_report` makes one HTML file, which opens from disk and asks for nothing else. Needs pyarrow, scikit-learn
and Jinja: ``pip install 'camkit[report]'``.
"""

from __future__ import annotations

from camkit.report.requirements import require_packages

require_packages()

from camkit.report.writing import Report, write_report  # noqa: E402

__all__ = ["Report", "write_report"]
