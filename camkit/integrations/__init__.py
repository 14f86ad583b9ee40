"""camkit inside people's own code: maps while a network trains, a module per framework, and behind grad-cam's names.

Each module imports its framework, and nothing here imports the modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from camkit.integrations.recorder import Recorder as Recorder


def __getattr__(name: str) -> object:
    if name == "Recorder":
        from camkit.integrations.recorder import Recorder

        return Recorder
    raise AttributeError(f"module 'camkit.integrations' has no attribute {name!r}")
