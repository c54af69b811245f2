"""The options of `learn` alone, in the order in which its help lists them."""

from pathlib import Path
from typing import Annotated

import typer

from conceptctl.cli import completion
from conceptctl.methods import CLASSIFIERS, METHODS
from conceptctl.presets import AUTO

FolderArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Pictures of the one thing to learn; where classes are told apart, a folder of each.", metavar="DIR"
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        "--name",
        help="Its name: V*NAME in prompts. Of a task, by default its folder's.",
        metavar="NAME",
        autocompletion=completion.lessons,
    ),
]
ClassOption = Annotated[
    str,
    typer.Option(
        "--class",
        help="What kind of thing it is: person, dog, waterfall.",
        metavar="WORD",
        autocompletion=completion.classes,
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help=f"One of {', '.join(METHODS)}; where classes are told apart, of {', '.join(CLASSIFIERS)}.",
        rich_help_panel="Training",
        autocompletion=completion.methods,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Settings of another preset than the base's: paper, or a file.",
        metavar="NAME",
        rich_help_panel="Training",
        autocompletion=completion.presets,
    ),
]


def _steps(text: str) -> int | str:
    """Read what `--steps` says."""
    if text == AUTO:
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor {AUTO}") from None


StepsOption = Annotated[
    str | None,
    typer.Option(
        "--steps",
        help="Optimizer steps; auto: until it is learned.",
        metavar="INT/auto",
        parser=_steps,
        rich_help_panel="Training",
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        help="Where classes are told apart: how often each picture is drawn, in the mean.", rich_help_panel="Training"
    ),
]
MostStepsOption = Annotated[int | None, typer.Option(help="The most steps.", rich_help_panel="Training")]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", "--train-batch-size", help="The concept's pictures in a step.", rich_help_panel="Training"
    ),
]
RateOption = Annotated[
    float | None, typer.Option("--learning-rate", help="Step size of the adapters.", rich_help_panel="Training")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--lr-scheduler", help="How learning rates go on: constant, cosine, linear, ...", rich_help_panel="Training"
    ),
]
RankOption = Annotated[int | None, typer.Option("--rank", help="Rank of the adapters.", rich_help_panel="Training")]
AuxiliaryOption = Annotated[
    int | None,
    typer.Option(
        "--aux", help="Pictures of the class, drawn by the base, to learn beside.", rich_help_panel="Pictures"
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of everything random.", rich_help_panel="Training")
]
FlipOption = Annotated[
    bool, typer.Option("--flip", help="Learn from the mirrored pictures too.", rich_help_panel="Pictures")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Another setting of the method.",
        metavar="NAME=VALUE",
        rich_help_panel="Training",
        autocompletion=completion.method_settings,
    ),
]
PreviewOption = Annotated[
    bool, typer.Option("--preview", help="Draw it now and then, in conceptctl-out/NAME.", rich_help_panel="Output")
]
FoldOption = Annotated[bool, typer.Option("--fold", help="Fold when it is learned.", rich_help_panel="Store")]
CheckpointingOption = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel="Memory")
]
LowVramOption = Annotated[
    bool,
    typer.Option(
        "--low-vram",
        help="The least memory: one sample at a time, gradients checkpointed. A GPU chooses by what is free.",
        rich_help_panel="Memory",
    ),
]
MicroBatchOption = Annotated[
    int | None,
    typer.Option(
        "--micro-batch",
        help="Samples of a step that go through the network together; what is learned stays the same.",
        rich_help_panel="Memory",
    ),
]
SamplePromptsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sample-prompt", help="Draw this now and then; repeatable.", metavar="TEXT", rich_help_panel="Output"
    ),
]
SampleEveryOption = Annotated[
    int | None,
    typer.Option("--sample-every", help="Steps between samples; a tenth of all by default.", rich_help_panel="Output"),
]
LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log-to", help="Write losses (CSV, TensorBoard) and samples there.", metavar="DIR", rich_help_panel="Output"
    ),
]
ReplaceOption = Annotated[
    bool,
    typer.Option("--replace", help="Learn it anew; the old one goes when it is learned.", rich_help_panel="Store"),
]
BatchFileOption = Annotated[
    Path | None,
    typer.Option(
        "--batch",
        help="Learn several: a TOML file with [[concept]] tables of folder, token, class and any option.",
        metavar="FILE",
    ),
]
FullOption = Annotated[bool, typer.Option("--full", help="With --dry-run: every setting.", rich_help_panel="Output")]
AccumulationOption = Annotated[
    int | None,
    typer.Option("--gradient-accumulation-steps", help="Portions of --batch-size in a step.", rich_help_panel="Memory"),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--mixed-precision",
        help="bf16 (the default where the device is fast in it), fp16 (that of older GPUs) or no.",
        rich_help_panel="Memory",
    ),
]
ResolutionOption = Annotated[
    int | None,
    typer.Option(
        "--resolution",
        help="Learn at about as many pixels as a square of this side has: a multiple of 64, from half to twice the "
        "base's own, which is the default.",
        rich_help_panel="Pictures",
    ),
]
LicenseOption = Annotated[
    str,
    typer.Option(
        "--license",
        help="Under what terms the pictures may be used; kept with the concept.",
        rich_help_panel="Pictures",
    ),
]
ConsentOption = Annotated[
    str, typer.Option("--consent", help="Who agreed to what; kept with the concept.", rich_help_panel="Pictures")
]
