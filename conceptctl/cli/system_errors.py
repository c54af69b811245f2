"""What the operating system refused, as an exit code, a line and what would help."""

import errno
import os

from conceptctl.cli.streams import STDOUT
from conceptctl.errors import NoSpace

BUG = 1
"""The exit code of what nobody foresaw."""

_CODES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), 7),
    **dict.fromkeys((errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE), 9),
    # A path that cannot be what it is given for, whatever it is given for.
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR), 2),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENXIO), 2),
}
_HINTS = {
    errno.ENOSPC: NoSpace.default_hint,
    errno.EDQUOT: NoSpace.default_hint,
    errno.EFBIG: "ulimit -f says how large a file may be here",
    errno.EMFILE: "ulimit -n says how many files may be open here",
    errno.EROFS: "name a place that can be written to",
}


def code_of(error: Exception) -> int:
    """Return the exit code of an error that is not the project's own, or that of a bug."""
    if isinstance(error, MemoryError):
        return 9
    if isinstance(error, OSError):
        return _CODES.get(error.errno or 0, BUG)
    # Text of these kinds can only have been typed, or be the name of a file.
    not_utf8 = isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed"
    return 2 if not_utf8 or (type(error) is ValueError and "embedded null" in str(error)) else BUG


def message_of(error: Exception) -> str:
    """Say in one line what is wrong, and with which file."""
    if isinstance(error, OSError) and error.strerror:
        from conceptctl.workflows.places import shortened

        paths = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, str | bytes)]
        return ": ".join([*map(shortened, paths), error.strerror])
    if isinstance(error, UnicodeEncodeError):
        return f"not UTF-8 text: {error.object[max(0, error.start - 20) : error.end + 20]}"
    return str(error) or type(error).__name__


def hint_of(error: Exception) -> str:
    """Say what would help, or nothing."""
    if not isinstance(error, OSError):
        return ""
    if error.filename == STDOUT:
        return "only what is said of it is lost: what the command did is done (conceptctl log), and needs no repeating"
    return _HINTS.get(error.errno or 0, "")
