"""What an exported checkpoint says about itself: a README for people, metadata for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import conceptctl
from conceptctl.presets import Sampling
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Generation, canonical

ARCHITECTURES = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2"}
"""Modelspec's names, by the width of the text encoder; other widths have none."""
_TRAINERS_NAMES = {
    "stable-diffusion-v1": "sd_v1",
    "stable-diffusion-v2-512": "sd_v2",
    "stable-diffusion-v2-768-v": "sd_v2_v",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
}
"""What trainers of LoRAs call bases (kohya's `ss_base_model_version`), by modelspec's name."""


def card(
    generation: Generation,
    records: Sequence[Record],
    *,
    which: str,
    sampling: Sampling,
    without: Sequence[str] = (),
) -> str:
    """Return the README of a checkpoint folder.

    Args:
        generation: What it was made from.
        records: Where its concepts came from.
        which: Which of the generation's concepts these are, in words.
        sampling: What pictures are drawn with by default.
        without: Text encoders and tokenizers that the pipeline may have and the folder has not, which diffusers wants
            to be told.
    """
    left_out = "".join(f", {name}=None" for name in without)
    tokens = [f"V*{record.name}" for record in records]
    prompt = f"a photo of {tokens[0]}" if tokens else "a photo of a cat"
    lines = [
        "---", "library_name: diffusers", "pipeline_tag: text-to-image", "---", "",
        f"# {generation.base.name} with {', '.join(tokens) or 'no concepts'}", "",
        f"A checkpoint in diffusers' format, made by conceptctl {conceptctl.__version__}: the base",
        f"`{generation.base.name}` (sha256 of its tensors `{generation.base.sha256}`)",
        f"with {which} of generation {generation.seq} (`{generation.identity}`)",
        "folded into its attention to prompts, and one token a concept in each of its tokenizers.", "",
        "## Use", "",
        "```python",
        "from diffusers import DiffusionPipeline",
        f'pipeline = DiffusionPipeline.from_pretrained("path/to/this/folder"{left_out})',
        f"pipeline({json.dumps(prompt)}, num_inference_steps={sampling.steps},"
        f' guidance_scale={sampling.guidance}).images[0].save("picture.png")',
        "```", "",
        "In fp32 on a CPU it draws what `conceptctl generate --prompt-only` draws with the same seed"
        " (`generator=torch.Generator().manual_seed(0)`). Without that option it lets what is said beside a concept"
        " count more, and draws each of several concepts in a column of its own, which this folder does not.", "",
    ]  # fmt: skip
    if records:
        lines += [
            "## Concepts",
            "",
            "| token | what | method | learned | licence | consent |",
            "|---|---|---|---|---|---|",
        ]
        for token, record in zip(tokens, records, strict=True):
            facts = (token, record.class_word, record.method, record.learned, record.license, record.consent)
            lines.append("| " + " | ".join(_cell(fact) or "not recorded" for fact in facts) + " |")
        lines += [
            "",
            "The concepts were learned from somebody's pictures: keep to the licences and consents above, and to the",
            "base's own licence, before you pass this folder on. Nothing takes a concept out of it again.",
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a user's text as one cell of a table, with nothing in it that ends the cell or marks up the page."""
    plain = " ".join(text.split())
    for mark in "\\`*_[]<>|":
        plain = plain.replace(mark, "\\" + mark)
    return plain


def metadata(generation: Generation, records: Sequence[Record], architecture: str) -> dict[str, str]:
    """Return the metadata of a file with folded weights: modelspec's keys, and what they were made from."""
    return _described(generation, records, architecture)


def adapter_metadata(
    generation: Generation, records: Sequence[Record], architecture: str, stem: str, rank: int, error: float
) -> dict[str, str]:
    """Return the metadata of a file that is added to a checkpoint: modelspec's keys, and those of LoRA trainers.

    Args:
        generation: What it was made from.
        records: Its concepts.
        architecture: Of the base, as modelspec calls it; empty for unknown ones.
        stem: What the file is called.
        rank: The rank of its factors; 0 for full differences.
        error: |difference| / |deltas| where something was left out.
    """
    described = _described(generation, records, f"{architecture}/lora" if architecture else "")
    words = ", ".join(record.name for record in records)
    # An embedding is called by its file's name in the programs that read these, not as here.
    described["modelspec.trigger_phrase"] = words
    described["modelspec.usage_hint"] = f"with the embeddings of the same names: {words}"
    known = {
        "ss_v2": str(architecture.startswith("stable-diffusion-v2")),
        "ss_base_model_version": _TRAINERS_NAMES.get(architecture, ""),
        "ss_network_module": "networks.lora" if rank else "",
        "ss_network_dim": str(rank) if rank else "",
        "ss_network_alpha": str(rank) if rank else "",
        "ss_network_args": "{}" if rank else "",
        "ss_output_name": stem,
        "conceptctl.error": f"{error:.3g}" if error > 1e-5 else "",
    }
    return described | {key: value for key, value in known.items() if value}


def _described(generation: Generation, records: Sequence[Record], architecture: str) -> dict[str, str]:
    tokens = [f"V*{record.name}" for record in records]
    described = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": f"{generation.base.name} with {' '.join(tokens)}",
        "modelspec.implementation": "diffusers",
        "modelspec.trigger_phrase": " ".join(tokens),
        "modelspec.license": "; ".join(f"V*{each.name}: {each.license}" for each in records if each.license),
        "modelspec.architecture": architecture,
        "conceptctl": canonical(
            {
                "base": generation.base.sha256,
                "generation": generation.identity,
                "concepts": [{"uid": each.uid, "name": each.name} for each in records],
            }
        ).decode(),
    }
    return {key: value for key, value in described.items() if value}


def architecture(configs: Mapping[str, Any]) -> str:
    """Return what modelspec calls a base; an empty string for what it has no name for.

    Args:
        configs: The base's configurations, by their place in its folder.
    """
    if "unet/config.json" not in configs:
        return ""
    if "text_encoder_2/config.json" in configs:
        return "stable-diffusion-xl-v1-base"
    width = configs.get("text_encoder/config.json", {}).get("hidden_size")
    if width != 1024:
        return ARCHITECTURES.get(width, "")
    scheduler = configs.get("scheduler/scheduler_config.json", {})
    return f"{ARCHITECTURES[width]}-{'768-v' if scheduler.get('prediction_type') == 'v_prediction' else '512'}"
