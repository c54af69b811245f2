"""What ten folded concepts cost when pictures are drawn: time a picture and parameters, against the untouched base.

Run `python benchmarks/folded.py`; `--base FOLDER` for another base than pocket, `--threads 1` for fewer processors.
Prints Markdown tables. Both pipelines are loaded from folders by diffusers alone and take turns.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers import StableDiffusionPipeline

from conceptctl import families, pocket
from conceptctl.formats.diffusers_folder import export_diffusers
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows.fold import fold
from conceptctl.workflows.model import load
from tests import synthetic

PARTS = ("unet", "text_encoder", "vae")


def learned(root: Path, base_folder: Path, concepts: int, density: float) -> Store:
    """Make a store with concepts of random numbers on every K and V weight, all of them folded."""
    store = synthetic.make_store(root, base_folder)
    found = base.tensors(store.layout, store.head().base)
    family = families.facts_of(store.head().base)
    width = sum(base.token_widths(found, family).values())
    shapes = {
        place.removeprefix("unet/"): info.shape for place, (_, _, info) in found.items() if family.is_target(place)
    }
    for number in range(concepts):
        synthetic.learn(store, f"c{number}", number, shapes=shapes, width=width, density=density)
    fold(store)
    return store


def pipeline_of(folder: Path):
    made = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipeline, prompt: str, steps: int, seed: int) -> tuple[float, float]:
    """Draw a picture; return the wall time and the processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    pipeline(prompt, num_inference_steps=steps, guidance_scale=5.0, generator=torch.Generator().manual_seed(seed))
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(plain, folded, prompt: str, steps: int, rounds: int) -> None:
    for pipeline in (plain, folded):
        draw(pipeline, prompt, 2, 0)
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], "folded": []}
    for number in range(rounds):
        pair = [("plain", plain), ("folded", folded)]
        # Whoever goes second in one round goes first in the next.
        for name, pipeline in pair if number % 2 else pair[::-1]:
            taken[name].append(draw(pipeline, prompt, steps, number))
    print(
        f"\n| {steps} steps, median of {rounds}, {torch.get_num_threads()} threads | wall time, s | processor time, s |"
    )
    print("|---|---|---|")
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in taken.items()
    }
    for name, (wall, cpu) in medians.items():
        print(f"| {name} | {wall:.3f} | {cpu:.3f} |")
    wall, cpu = (medians["folded"][column] / medians["plain"][column] for column in (0, 1))
    print(f"| ratio | {wall:.3f} | {cpu:.3f} |")
    print(f"\nload of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def parameters(plain, folded) -> None:
    print("\n| parameters | plain | folded | more |\n|---|---|---|---|")
    for part in PARTS:
        before, after = (sum(each.numel() for each in getattr(one, part).parameters()) for one in (plain, folded))
        print(f"| {part} | {before:,} | {after:,} | {after - before:,} |")
    tables = [one.text_encoder.get_input_embeddings().weight for one in (plain, folded)]
    print(f"\n{len(tables[1]) - len(tables[0])} rows of {tables[0].shape[1]} more in the token table")


def same_pixels(store: Store, folded, prompt: str, steps: int) -> None:
    """Say whether the folder and `generate --prompt-only` draw the same."""
    ours = load(store, store.head(), "cpu").pipeline
    images = [
        one(prompt, num_inference_steps=steps, guidance_scale=5.0, generator=torch.Generator().manual_seed(7)).images[0]
        for one in (ours, folded)
    ]
    print(f"\nsame pixels as `generate --prompt-only` draws: {images[0].tobytes() == images[1].tobytes()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="a diffusers folder; pocket when it is left out")
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--density", type=float, default=0.3, help="share of the K and V weights that each changes")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, help="how many torch may use")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    base_folder = options.base or pocket.base_folder()
    with tempfile.TemporaryDirectory(prefix="conceptctl-bench-") as name:
        store = learned(Path(name, "store"), base_folder, options.concepts, options.density)
        export_diffusers(store, (), Path(name, "folded"), store.head())
        plain, folded = pipeline_of(base_folder), pipeline_of(Path(name, "folded"))
        parameters(plain, folded)
        same_pixels(store, folded, "a photo of V*c0 next to V*c1", options.steps)
        speed(plain, folded, "a photo of V*c0", options.steps, options.rounds)


if __name__ == "__main__":
    main()
