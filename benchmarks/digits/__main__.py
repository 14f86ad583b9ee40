"""The place of the evidence, measured: do maps fall on the digit that was asked for?

A small transformer tells which digits stand on a noisy canvas. On held-out canvases with two digits of different
classes, every method is asked for each of the two, with no flags. Writes the table, and the numbers with
their provenance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch

import camkit
from benchmarks.digits import measure, recipe
from benchmarks.digits.canvases import SIDE
from benchmarks.digits.picture import over_epochs, picture
from benchmarks.provenance import RESULTS, machine


def main() -> None:
    """Train, draw or measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digits", description=__doc__)
    parser.add_argument("--train", action="store_true", help="train anew first, some minutes on one core")
    parser.add_argument("--split", choices=measure.SEEDS, default="held-out", help="validation writes nothing")
    parser.add_argument("--picture", type=Path, help="draw a canvas and its maps to this file and do nothing else")
    parser.add_argument("--canvas", type=int, default=5, help="which of the held-out canvases to draw")
    parser.add_argument("--strip", type=Path, help="train anew, draw a canvas's maps over epochs and do nothing else")
    options = parser.parse_args()
    if options.strip:
        torch.set_num_threads(1)
        camkit.save_picture(options.strip, over_epochs())
        print(f"wrote: {options.strip}")
        return
    if options.train:
        # More threads add in another order: one gives the same weights on a machine with any number of cores.
        torch.set_num_threads(1)
        for model_of, path in ((recipe.train, recipe.CHECKPOINT), (recipe.train_cnn, recipe.CNN_CHECKPOINT)):
            torch.save(model_of().state_dict(), path)
            print(f"wrote: {path}")
    if options.picture:
        draw(options.picture, options.canvas)
        return
    model = recipe.load()
    rows, network = measure.rows(model, options.split), measure.recognition(model, options.split)
    table = measure.markdown(rows, network)
    print(table)
    if options.split != "held-out":
        return
    content = {
        "machine": machine("scikit-learn"),
        "checkpoint": {"sha256": hashlib.sha256(recipe.CHECKPOINT.read_bytes()).hexdigest(), "steps": recipe.STEPS},
        "canvases": measure.COUNT,
        "recognised": network,
        "rows": measure.as_json(rows),
    }
    (RESULTS / "digits.json").write_text(json.dumps(content, indent=2) + "\n")
    (RESULTS / "digits.md").write_text(page(table))
    print(f"wrote: {RESULTS / 'digits.json'}, {RESULTS / 'digits.md'}")


def draw(path: Path, canvas: int = 5) -> None:
    """Draw a held-out canvas and its maps, of one with both digits easy to read."""
    camkit.save_picture(path, picture(recipe.load(), measure.sample("held-out", measure.SIZES[0]), canvas))
    print(f"wrote: {path}")


def page(table: str) -> str:
    """What benchmarks/results/digits.md says."""
    return f"# The place of the evidence\n\n{ABOUT}\n{table}"


ABOUT = f"""\
{measure.COUNT} held-out canvases per size, each with two digits of different classes at random places, drawn from
digits that took no part in training. Every method is asked for each of the two:
`camkit.CAM(model, method)(images, classes)`, no flags.

A map is right where its hottest position lies strictly inside the {SIDE} x {SIDE} box of the digit asked for; ties must
lie there altogether, and an empty map is wrong. "Raw" are the signed maps at the layer's resolution (the centre of the
hottest token); where several layers' maps are multiplied there are none. "On the other digit" says whether the question
makes a difference: a map that ignores it is there as often as it is right. "Empty" counts maps without positive
evidence. EigenCAM and AttentionRollout take no question, and RandomCAM is the control: it weights channels by chance.

`python -m benchmarks.digits` makes this page, with `--train` the network too.
"""


if __name__ == "__main__":
    main()
