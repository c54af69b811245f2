"""T2 and T4, short forms: every call fails once, and the disk is full after every number of bytes."""

import errno
import os
from unittest import mock

import pytest

from conceptctl.store import durable
from tests.faults.drills import DRILLS, Field
from tests.faults.syscalls import ERRORS, failing_at

SOME = [drill for drill in DRILLS if drill.name in ("import", "fold", "purge", "gc")]


@pytest.mark.parametrize("drill", SOME, ids=lambda drill: drill.name)
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_an_error_anywhere_loses_nothing(drill, number, tmp_path):
    field = Field(drill, tmp_path)
    point, code, failed = 1, -1, 0
    while code != 0 or failed < 2:
        field.reset()
        code = failing_at(point, number, field.run)
        # What fails before the commit ends with the error's own code, and what fails after it says so too.
        assert code in (0, ERRORS[number])
        field.check(acknowledged=code == 0)
        failed += code != 0
        point += 3
    assert failed >= 2


def test_this_test_sees_an_error_that_is_swallowed(tmp_path):
    field = Field(SOME[0], tmp_path)
    real = durable.write_file

    def careless(*arguments, **options):
        try:
            return real(*arguments, **options)
        except OSError:
            return "0" * 64, 0

    with mock.patch.object(durable, "write_file", careless), pytest.raises(AssertionError):
        for point in range(1, 30):
            field.reset()
            code = failing_at(point, errno.ENOSPC, field.run)
            assert code in (0, 7)
            field.check(acknowledged=code == 0)


def test_a_full_disk_is_a_7_and_changes_nothing(tmp_path):
    field = Field(SOME[0], tmp_path)
    full = mock.Mock(f_bavail=0, f_frsize=4096)
    with mock.patch.object(os, "statvfs", return_value=full):
        assert field.run() == 7
    assert field.check(acknowledged=False) == "before"


@pytest.mark.parametrize("drill", SOME[:2], ids=lambda drill: drill.name)
def test_whatever_room_is_left_the_store_is_sound(drill, tmp_path):
    """The disk says that there is room, and then there is not."""
    field = Field(drill, tmp_path)
    real = os.write
    codes = set()
    for room in range(0, 8400, 280):
        field.reset()
        left = [room]

        def write(descriptor, data, left=left):
            if len(data) > left[0]:
                raise OSError(errno.ENOSPC, "full")
            left[0] -= len(data)
            return real(descriptor, data)

        with mock.patch.object(os, "write", write):
            code = field.run()
        codes.add(code)
        field.check(acknowledged=code == 0)
    assert codes == {0, 7}
