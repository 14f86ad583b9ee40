"""Where results are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.provenance import RESULTS

MEASURED = ("speed", "memory", "soak", "startup", "scaling", "throughput")
"""What is measured; each part has a JSON file of its own, as each may be of another day."""
CHART = RESULTS.parent.parent / "docs" / "speed.png"


def load(folder: Path = RESULTS) -> dict[str, Any]:
    """What is kept in ``folder``, by part."""
    files = {part: folder / f"{part}.json" for part in MEASURED}
    return {part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}
