"""From one image to a data set: maps of many images in Parquet files, on one machine or on Ray.

:func:`run` explains a data set and goes on where an earlier run stopped, :func:`load` reads what it kept. Needs
pyarrow: ``pip install 'camkit[datasets]'``.
"""

from __future__ import annotations

from camkit.datasets.requirements import require_pyarrow

require_pyarrow()

from camkit.datasets.reading import Run, load  # noqa: E402
from camkit.datasets.running import run  # noqa: E402
from camkit.datasets.settings import Summary  # noqa: E402

__all__ = ["Run", "Summary", "load", "run"]
