"""The changed images that perturbations ask for, one after the other: what takes long is made by threads, ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from camkit.metrics.perturbations import Changed, Perturbation, generator_of


class Request(NamedTuple):
    """A perturbation of all images, by a method's maps, or by none where it doesn't depend on maps."""

    perturbation: Perturbation
    method: str | None


class Job(NamedTuple):
    """A changed image, and what it is for.

    Attributes:
        request: the number of the request.
        items: the items whose targets' scores are read.
        step: which of the request's changed images.
        image: (C, H, W); until the next job is asked for.
    """

    request: int
    items: range
    step: int
    image: Tensor


class _Item(NamedTuple):
    """What a request changes: an image, by the map of one of its targets or by none."""

    request: int
    items: range
    made: Iterator[Changed]


class Jobs:
    """The jobs of some requests.

    Args:
        images: (B, C, H, W), prepared.
        targets: T, how many targets an image has; item b * T + t is the t-th of image b.
        maps: by method, (B, T, H, W) float64 on the CPU.
        requests: each one once.
        seed: of whatever is drawn.
    """

    def __init__(
        self, images: Tensor, targets: int, maps: Mapping[str, Tensor], requests: Sequence[Request], seed: int
    ) -> None:
        self._images = images
        self._each = targets
        self._maps = maps
        self._requests = requests
        self._seed = seed
        self.counts = [request.perturbation.count(images[0]) for request in requests]

    def __len__(self) -> int:
        owners = [1 if request.method is None else self._each for request in self._requests]
        return len(self._images) * sum(count * own for count, own in zip(self.counts, owners, strict=True))

    def by_image(self, ahead: int) -> Generator[Job, None, None]:
        """All jobs of one image after the other.

        Args:
            ahead: how many images are being made by threads, or wait for their turn, at most.
        """
        waiting: deque[tuple[_Item, int, Future[Tensor]]] = deque()

        def oldest() -> Job:
            item, step, future = waiting.popleft()
            return Job(item.request, item.items, step, future.result())

        with _threads() as submit:
            for image in range(len(self._images)):
                for item in self._items_of(image):
                    for step, changed in enumerate(item.made):
                        if isinstance(changed, Tensor):
                            yield Job(item.request, item.items, step, changed)
                            continue
                        waiting.append((item, step, submit(changed)))
                        if len(waiting) > ahead:
                            yield oldest()
            while waiting:
                yield oldest()

    def by_change(self) -> Generator[Job, None, None]:
        """The first change of every image, the second one of every image, and so on, for one request after another."""
        with _threads() as submit:
            items = [list(self._items_of(image)) for image in range(len(self._images))]
            for same in zip(*items, strict=True):
                for step, row in enumerate(zip(*(item.made for item in same), strict=True)):
                    futures = [each if isinstance(each, Tensor) else submit(each) for each in row]
                    for item, made in zip(same, futures, strict=True):
                        image = made if isinstance(made, Tensor) else made.result()
                        yield Job(item.request, item.items, step, image)

    def _items_of(self, image: int) -> Iterator[_Item]:
        first, pixels = image * self._each, self._images[image]
        seeded = generator_of(pixels, self._seed).get_state()
        for number, (perturbation, method) in enumerate(self._requests):
            together = method is None
            for target in range(1 if together else self._each):
                heats = next(iter(self._maps.values())) if method is None else self._maps[method]
                generator = torch.Generator()
                generator.set_state(seeded)
                items = range(first, first + self._each) if together else range(first + target, first + target + 1)
                yield _Item(number, items, perturbation.images(pixels, heats[image, target], generator))


@contextmanager
def _threads() -> Iterator[Callable[[Callable[[], Tensor]], Future[Tensor]]]:
    """A context with a function that lets threads call others; they start with the first one."""
    pool = ThreadPoolExecutor(_cores(), "camkit-metrics")
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
