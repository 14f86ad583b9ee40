"""The packages that data sets need beside camkit's own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from camkit.errors import PackageError, reason

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


def require(module: str, extra: str, why: str) -> Any:
    """Import a package of one of camkit's extras.

    Raises:
        PackageError: It is missing or doesn't load; the message says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = error.name or module
        raise PackageError(f"{why}, and {name} is missing: pip install 'camkit[{extra}]'") from error
    except Exception as error:
        raise PackageError(
            f"{module} is installed but doesn't load ({reason(error)}): pip install -U {module}"
        ) from error
