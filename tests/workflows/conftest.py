"""What several tests of workflows begin with."""

import pytest

from tests.tiny_pipeline import write_tiny_pipeline


@pytest.fixture(scope="module")
def base_folder(request, tmp_path_factory):
    """A tiny pipeline, that predicts noise unless `PREDICTING_BOTH` asks for more."""
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"), prediction_type=getattr(request, "param", "epsilon"))
