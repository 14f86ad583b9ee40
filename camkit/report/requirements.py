"""The packages that reports need beside camkit's own."""

from __future__ import annotations

from camkit.datasets.requirements import require_pyarrow
from camkit.versions import require


def require_packages() -> None:
    """Make sure that they are there.

    Raises:
        PackageError: One isn't.
    """
    require_pyarrow()
    require("jinja2", "report", "reports are pages of HTML")
    require("sklearn", "report", "reports find clusters of maps")
