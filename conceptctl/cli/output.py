"""The one place that prints: human, JSON or quiet; data on stdout, prose on stderr."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from conceptctl.cli import streams
from conceptctl.errors import ConceptctlError
from conceptctl.learning.launch import is_main_process, process

if TYPE_CHECKING:
    from conceptctl.cli.progress import ProgressLine


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a verb's result goes.

    Attributes:
        as_json: One JSON object instead of anything for people.
        quiet: No prose but warnings; data that has a short form is printed in it.
        silent: Nothing at all: another process of the same run says it.
        warnings: What was warned of so far; JSON carries it beside the result.
    """

    as_json: bool = False
    quiet: bool = False
    warnings: list[str] = dataclasses.field(default_factory=list)
    silent: bool = dataclasses.field(default_factory=lambda: not is_main_process())

    def say(self, text: str, *, always: bool = False) -> None:
        """Print a line of prose on stderr, unless nobody wants any; `always` is for what must not be lost."""
        if always or not (self.as_json or self.quiet or self.silent):
            streams.tell(text)

    def warn(self, text: str) -> None:
        """Say what should be known about a result that is one nonetheless."""
        self.warnings.append(text)
        # Whoever wants no prose still wants to know.
        self.say(f"warning: {text}", always=not (self.as_json or self.silent))

    def data(self, payload: Mapping[str, Any], lines: Iterable[str], short: Iterable[str]) -> None:
        """Print a result: `payload` as JSON, `lines` for people, or `short` when quiet."""
        if self.silent:
            return
        if self.as_json:
            warned = {"warnings": self.warnings} if self.warnings else {}
            streams.write([streams.as_json({**payload, **warned})])
        else:
            streams.write(short if self.quiet else lines)

    def table(
        self,
        payload: Mapping[str, Any],
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
    ) -> None:
        """Print rows: a paged table on a terminal, tab-separated ones elsewhere.

        The first column is what `--quiet` prints.
        """
        if self.as_json or self.quiet or self.silent or not sys.stdout.isatty():
            plain = ["\t".join(row) for row in (columns, *rows)]
            self.data(payload, plain, [row[0] for row in rows])
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console = Console()
        if len(rows) < console.height:
            console.print(table)
        else:
            with console.pager():
                console.print(table)

    @contextmanager
    def progress(self) -> Iterator["ProgressLine"]:
        """Show on stderr how far something is while it takes long: one line on a terminal, a few lines elsewhere.

        Yields:
            What begins a stage with `stage`, and is told of it with `update`; a call with what is going on makes a
            function that is told how much is done, and how much there is.
        """
        from conceptctl.cli.progress import progress, terminal

        unseen = self.as_json or self.quiet or self.silent
        with progress(self.say, None if unseen else terminal()) as shown:
            yield shown

    def error(self, error: ConceptctlError) -> None:
        """Print an error: one JSON object on stdout, or a line and a hint on stderr."""
        self.failure(type(error).__name__, error.exit_code, str(error), error.hint)

    def failure(self, kind: str, code: int, message: str, hint: str = "") -> None:
        """Print what went wrong, with its exit code."""
        if self.silent:
            # Only the main process writes on stdout; what stops another one must be heard.
            streams.tell(f"error in process {process()}: {message}")
            return
        if self.as_json:
            problem = {"code": code, "kind": kind, "message": message, "hint": hint}
            try:
                streams.write([streams.as_json({"error": problem})])
                return
            except OSError:
                # Where JSON cannot go, a line must do.
                pass
        streams.tell(f"error: {message}")
        if hint:
            streams.tell(f"  hint: {hint}")
