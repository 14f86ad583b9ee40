"""What one page shows: its pictures, what explains them, and the queue in front."""

from __future__ import annotations

from dataclasses import dataclass, field

from camkit.errors import UsageError
from camkit.explore.album import Album
from camkit.explore.kinds import Source
from camkit.explore.queue import Queue


@dataclass
class Explorer:
    """What the page shows.

    Attributes:
        title: Of the page.
        album: The pictures.
        sources: What explains them, by a short name; the first one is shown first.
        queue: In front of all of them.
        methods: That are shown first.
        categories: Classes that are shown first; none for the predicted one.
        columns: Of the run that the pictures are from, by which they can be chosen and sorted; none without a run.
        notices: Lines that stand on top of the page.
    """

    title: str
    album: Album
    sources: dict[str, Source]
    queue: Queue = field(default_factory=Queue)
    methods: tuple[str, ...] = ("GradCAM",)
    categories: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    uploading: int = 0

    def source(self, name: str) -> Source:
        """What explains.

        Raises:
            UsageError: There is no such thing.
        """
        if name not in self.sources:
            raise UsageError("there is no such model or run")
        return self.sources[name]

    def close(self) -> None:
        """End the model's thread, and delete what was uploaded."""
        self.queue.close(1.0)  # what the model is at ends with the process
        self.album.close()
