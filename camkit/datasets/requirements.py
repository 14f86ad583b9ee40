"""The packages that data sets need beside camkit's own."""

from __future__ import annotations

from camkit.errors import PackageError
from camkit.versions import require

OLDEST_PYARROW = 15


def require_pyarrow() -> None:
    """Make sure that pyarrow is there and new enough.

    Raises:
        PackageError: It isn't.
    """
    pyarrow = require("pyarrow", "datasets", "data sets are kept in Parquet files")
    number = str(pyarrow.__version__)
    if int(number.split(".")[0]) < OLDEST_PYARROW:
        raise PackageError(
            f"data sets need pyarrow {OLDEST_PYARROW} or newer, this is {number}: pip install -U pyarrow"
        )
