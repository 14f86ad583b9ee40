"""What CAMs around another CAM share: how they are called, entered and left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.integrations.pytorch_grad_cam.running import Array

if TYPE_CHECKING:
    from typing_extensions import Self


class MetaCAM:
    """Finer-CAM, RefineCAM and SESS: each makes its maps by a CAM of this package, ``base_cam``."""

    base_cam: BaseCAM

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """See :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Array:
        """Maps of the images (B, H, W), float32 in [0, 1]."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Nothing needs releasing: hooks are in place only during a call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget the activations of the last call; errors pass."""
        self.base_cam.__exit__(kind, error, trace)
