"""The project's errors: each class carries its exit code and, where there is one, the next step.

A script can rely on the codes: 0 ok, 1 a bug, 2 usage, 3 pictures refused, 4 store damaged, 5 not
found or already there, 6 busy, 7 no space, 8 import refused, 9 device or memory, 130/143 interrupted.
"""

from typing import ClassVar


class ConceptctlError(Exception):
    """Something a user can act on.

    Attributes:
        exit_code: What the program ends with.
        hint: The command or step that would help, or an empty string.
    """

    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.default_hint


class UsageError(ConceptctlError):
    """A name, a value or a combination of options that cannot be meant."""

    exit_code = 2


class PicturesRefused(ConceptctlError):
    """A folder of pictures with something in it that must not be trained on."""

    exit_code = 3
    default_hint = "fix or remove the pictures named above, or pass --skip-bad"


class StoreDamaged(ConceptctlError):
    """Bytes on disk are not the bytes that were committed."""

    exit_code = 4
    default_hint = "conceptctl verify --read-data shows everything that is wrong; conceptctl repair"


class StoreTooNew(StoreDamaged):
    """The store was written by a newer program; nothing but its format number was read."""

    default_hint = "upgrade conceptctl"


class NotFound(ConceptctlError):
    """A store, concept, generation or file that is not there."""

    exit_code = 5


class AlreadyExists(ConceptctlError):
    """A store, concept or file that is already there and would be overwritten."""

    exit_code = 5


class Busy(ConceptctlError):
    """Another process is changing the store."""

    exit_code = 6
    default_hint = "wait for it to end and run the same command again"


class NoSpace(ConceptctlError):
    """The disk or the quota is full; nothing was changed."""

    exit_code = 7
    default_hint = "free some space and run the same command again"


class ImportRefused(ConceptctlError):
    """A file from elsewhere that breaks a rule of the import gate."""

    exit_code = 8


class DeviceFailed(ConceptctlError):
    """A disk, a GPU or memory failed, or ran out of something other than space."""

    exit_code = 9


class Interrupted(ConceptctlError):
    """SIGINT or SIGTERM arrived; what was committed stays committed."""

    exit_code = 130
    default_hint = "the same command resumes"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ran out, on a GPU or beside it: the CPU has no error class of its own."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
