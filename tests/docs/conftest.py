"""What several tests of the documents begin with."""

import pytest

from tests.docs.pages import FIRST, SECOND, runs
from tests.docs.running import Reader


@pytest.fixture(scope="session")
def after_tutorials(tmp_path_factory):
    """The folder of a reader who has done both tutorials: how-to pages begin there."""
    reader = Reader(tmp_path_factory.mktemp("reader"))
    for page in (FIRST, SECOND):
        reader.follow(runs(page))
    return reader
