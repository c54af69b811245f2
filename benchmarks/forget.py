"""How long `forget` takes, and how much memory, on a base of Stable Diffusion 1.x's size.

    python benchmarks/forget.py                 # 50 concepts; 1.5 GB of disk for a while
    python benchmarks/forget.py --unfolded      # whose deltas are added up first

The base has random weights: a text encoder as large as CLIP ViT-L, and the K and V weights of the U-Net.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import synthetic

CLI = str(Path(sys.executable).with_name("conceptctl"))
LENGTH = 77


def write_base(folder: Path) -> Path:
    """Write what `forget` needs of Stable Diffusion 1.x."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from conceptctl.pocket.train.vocabulary import build_tokenizer

    synthetic.write_base(folder, synthetic.sd1_shapes(), width=768)
    for part in ("tokenizer", "text_encoder"):
        shutil.rmtree(folder / part)
    tokenizer = build_tokenizer(folder / "tokenizer")
    settings = folder / "tokenizer/tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": LENGTH}))
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=50)
    parser.add_argument("--density", type=float, default=0.3, help="share of the K and V weights that each changes")
    parser.add_argument("--unfolded", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="conceptctl-bench-") as name:
        store = synthetic.make_store(Path(name, "store"), write_base(Path(name, "base")))
        for number in range(options.concepts):
            shapes = synthetic.sd1_shapes()
            synthetic.learn(store, f"c{number}", number, shapes=shapes, width=768, density=options.density)
        where = ["--store", str(store.layout.root)]
        if not options.unfolded:
            subprocess.run([CLI, "fold", *where], check=True, stdout=subprocess.DEVNULL)
        for verb in (["forget", "c0", "--dry-run"], ["forget", "c0", "--yes"]):
            start = time.perf_counter()
            subprocess.run([CLI, *verb, *where], check=True)
            print(f"{' '.join(verb)}: {time.perf_counter() - start:.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"most memory of one of these commands: {peak:.2f} GB")


if __name__ == "__main__":
    main()
