"""T1, short form: SIGKILL ahead of every call of the store that changes the disk."""

import os
from unittest import mock

import pytest

from conceptctl.store import index
from tests.faults.drills import DRILLS, Field
from tests.faults.syscalls import killed_at


def points(field: Field):
    """Kill ever later, until the command gets through."""
    point = 1
    while True:
        field.reset()
        code = killed_at(point, field.run)
        yield point, code
        if code != -9:
            return
        point += 1


def test_a_kill_anywhere_loses_nothing(field):
    states = set()
    for _, code in points(field):
        assert code in (0, -9)
        states.add(field.check(acknowledged=code == 0))
    # A test that only ever saw one side of the commit has not looked.
    assert states == {"before", "after"} or field.drill.name in ("gc", "repair")


@pytest.mark.parametrize("broken", ["commit before the manifest", "delete before the commit"])
def test_this_test_sees_a_wrong_order(broken, tmp_path):
    """The check itself, against a store that acknowledges or removes too early."""
    from conceptctl.store import purge, store

    drill = next(each for each in DRILLS if each.name == ("import" if broken.startswith("commit") else "purge"))
    field = Field(drill, tmp_path)
    write_manifest, append, replace_history = store._write_manifest, index.append, purge.replace_history

    def commit_first(layout, generation):
        append(layout.index, generation)
        write_manifest(layout, generation)

    def delete_first(layout, chain):
        for row in index.rows(layout.index):
            os.unlink(layout.manifest(row.seq, row.id))
        replace_history(layout, chain)

    def drill_it():
        for _, code in points(field):
            field.check(acknowledged=code == 0)

    if drill.name == "import":
        with (
            mock.patch.object(store, "_write_manifest", commit_first),
            mock.patch.object(index, "append"),
            pytest.raises(AssertionError),
        ):
            drill_it()
    else:
        with mock.patch.object(purge, "replace_history", delete_first), pytest.raises(AssertionError):
            drill_it()
