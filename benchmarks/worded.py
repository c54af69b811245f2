"""How much of the bundled world's concepts words alone can say: what a token is compared with, which changes no weight.

    python benchmarks/worded.py                      # a minute: ten concepts, twelve pictures of each prompt
    python benchmarks/worded.py --seed 977

Concepts are drawn without being learned: by their class, and by all that shows of them and has a word. Two details of
each of them and some colours are in no picture and no caption that the base was trained on; what the judge reads right
stands apart for these and for the rest.
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import judged

from conceptctl import families, pocket
from conceptctl.pocket.world import captions
from conceptctl.pocket.world.concepts import Concept, sequence
from conceptctl.pocket.world.kinds import DETAILS, UNSEEN_PAINT
from conceptctl.pocket.world.scenes import Scene
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows.model import load


def described(concept: Concept) -> str:
    """Say all of a concept that has a word."""
    # More than there are: all of them.
    mentions = captions.draw_mentions(concept.subject, random.Random(0), least=100, most=100)
    return captions.compose(Scene((concept.subject,)), [mentions])


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--pictures", type=int, default=12, help="of each prompt")
    options = parser.parse_args()
    concepts, judge, folder = sequence(options.concepts, options.seed), pocket.load_judge(), pocket.base_folder()
    with TemporaryDirectory() as place:
        root = Path(place) / "store"
        store = Store.create(root, base.inspect(folder, families.recognized(folder).FAMILY), "pocket")
        backbone = load(store, store.head(), "cpu")
        print("| prompt | accepted | attributes right | of those with a word | of the others |\n|---|---|---|---|---|")
        for name in ("the class", "all that has a word"):
            accepted, right = [], []
            for concept in concepts:
                prompt = f"a photo of a {concept.kind}" if name == "the class" else described(concept)
                readings = judged.read(judge, judged.draw(backbone, prompt, options.pictures))
                accepted += [reading.shows(concept.subject) for reading in readings]
                for attribute, ok in judged.attributes_right(readings, concept):
                    unseen = attribute.startswith(DETAILS) or concept.subject[attribute] in UNSEEN_PAINT
                    right.append((unseen, ok))
            shares = (
                accepted,
                [ok for _, ok in right],
                [ok for unseen, ok in right if not unseen],
                [ok for unseen, ok in right if unseen],
            )
            print(f"| {name} | {' | '.join(f'{100 * statistics.mean(each):.0f} %' for each in shares)} |", flush=True)


if __name__ == "__main__":
    main()
