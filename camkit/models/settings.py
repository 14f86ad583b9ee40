"""What a user says about loading: how the checkpoint is read, and what the images are made into."""

from __future__ import annotations

from dataclasses import dataclass

from camkit.errors import UsageError


@dataclass(frozen=True)
class Reading:
    """How a checkpoint is read.

    Attributes:
        trust: Unpickle it fully where it can't be read otherwise, which can run code in it.
        weights: ``"live"`` or ``"ema"``, where a file holds both; or the name of one of its entries. None takes what
            the framework's own loader takes.
        allow_partial: Take a checkpoint that lacks a part of what the score depends on. The rest stays as it was drawn.
        seed: What random weights were drawn with; for messages.
    """

    trust: bool = False
    weights: str | None = None
    allow_partial: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Preprocessing:
    """What takes the place of the preprocessing that a model's framework has for it. None leaves it.

    Attributes:
        mean: Per channel, of colours in [0, 1]; one number serves all.
        std: As ``mean``.
        input_size: ``(C, H, W)``, ``(H, W)`` or ``(side,)``.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for flag, values in (("--mean", self.mean), ("--std", self.std)):
            if values is not None and len(values) not in (1, 3):
                raise UsageError(f"{flag} takes one number, or one each for R, G and B, got {len(values)}")
            if values is not None and not all(0 <= value <= 1 for value in values):
                raise UsageError(
                    f"{flag} is of colours in 0 to 1, got {_words(values)}; divide numbers for 0 to 255 by 255"
                )
        if self.std is not None and not all(self.std):
            raise UsageError(f"--std takes numbers above 0, got {_words(self.std)}")
        if self.input_size is not None and (len(self.input_size) > 3 or not all(n > 0 for n in self.input_size)):
            raise UsageError(f"--input-size takes C H W, H W or one side, all above 0, got {_words(self.input_size)}")

    @property
    def channels(self) -> int | None:
        """The first of three numbers of ``input_size``."""
        return self.input_size[0] if self.input_size is not None and len(self.input_size) == 3 else None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width."""
        return None if self.input_size is None else (self.input_size[-2:][0], self.input_size[-1])

    def refuse(self, instead: str) -> None:
        """Refuse all of it for a framework whose own files say how images are prepared.

        Raises:
            UsageError: Any of it is given; ``instead`` says what to do.
        """
        given = (("--mean", self.mean), ("--std", self.std), ("--input-size", self.input_size))
        for flag, values in given:
            if values is not None:
                raise UsageError(f"{flag} is for timm and torchvision; {instead}")


def _words(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
