"""What every test starts from."""

from __future__ import annotations

from camkit.adapters.torchvision_shim import ensure_torchvision

# Before grad-cam, timm or MMPretrain import torchvision, which a CPU-only torch may not be able to load.
ensure_torchvision()
