"""Data sets need pyarrow, which the check extra brings; where it is missing, that is said."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("pyarrow") else ["test_*.py"]
