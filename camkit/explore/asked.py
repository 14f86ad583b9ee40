"""What the page may ask for, bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from camkit.explore.kinds import View
from camkit.visualize.overlay import Style

Text = Annotated[str, Field(max_length=1000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Asked(BaseModel):
    """One map of one picture, see :class:`camkit.explore.kinds.View`."""

    model_config = ConfigDict(extra="forbid")

    source: Text
    image: Text
    method: Text = "GradCAM"
    category: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    layers: Annotated[list[Text], Field(max_length=32)] = []
    eigen_smooth: bool = False
    aug_smooth: bool = False

    def view(self) -> View:
        """Without the source."""
        return View(self.image, self.method, self.category, tuple(self.layers), self.eigen_smooth, self.aug_smooth)


class AskedLayers(Asked):
    """The layers of a model."""

    whole: bool = False


class AskedMap(Asked):
    """A map, and whether its signed form is wanted, too."""

    signed: bool = False


class AskedPlace(Asked):
    """A place: shares of the picture's width and height."""

    x: Share
    y: Share


class AskedPicture(Asked):
    """A picture as the command line draws it."""

    colormap: Text = "jet"
    alpha: Share = 0.5
    original_size: bool = False

    def style(self) -> Style:
        """Colours and share of the heat."""
        return Style(self.colormap, self.alpha)


class AskedCategory(BaseModel):
    """A class by index or name."""

    source: Text
    text: Annotated[str, Field(min_length=1, max_length=200)]
