import pytest

from tests import synthetic


@pytest.fixture(autouse=True)
def _without_prompts(monkeypatch):
    # These bases have no text encoder.
    synthetic.without_prompts(monkeypatch)


@pytest.fixture
def base_folder(tmp_path):
    return synthetic.write_base(tmp_path / "base")


@pytest.fixture
def store(tmp_path, base_folder):
    return synthetic.make_store(tmp_path / "store", base_folder)
