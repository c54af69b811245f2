import json
from pathlib import Path

import pytest

from conceptctl import config
from conceptctl.cli.app import run
from conceptctl.errors import NotFound, UsageError


@pytest.fixture(autouse=True)
def settings_file(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    monkeypatch.setenv("CONCEPTCTL_CONFIG", str(path))
    return path


def test_without_a_file_the_built_in_defaults_hold():
    assert config.load_config() == config.Config()


def test_a_value_is_kept_and_can_be_dropped(settings_file):
    assert run(["config", "train.steps", "800"]) == 0
    assert config.load_config().train.steps == 800
    assert run(["config", "train.steps", "--unset"]) == 0
    assert config.load_config().train.steps is None
    assert run(["config", "train.steps", "auto"]) == 0
    assert config.load_config().train.steps == "auto"


def test_text_with_quotes_survives(settings_file):
    config.set_value("sample.negative", 'a "blurry" \\ picture')
    assert config.load_config().sample.negative == 'a "blurry" \\ picture'


@pytest.mark.parametrize("text", ["[train]\nstepz = 1", "[nope]\na = 1", "steps = 1", "[train]\nsteps = 'x'", "[[["])
def test_a_file_with_nonsense_is_refused(settings_file, text):
    settings_file.write_text(text)
    with pytest.raises(UsageError):
        config.load_config()


def test_an_unknown_key_names_the_known_ones():
    with pytest.raises(NotFound) as caught:
        config.set_value("train.stepz", "1")
    assert "train.steps" in caught.value.hint


def test_a_bad_value_changes_nothing(settings_file, capsys):
    assert run(["config", "train.steps", "many", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "UsageError"
    assert not settings_file.exists()


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("train.method", "nothing", 5), ("train.method", "l2p", 5), ("train.method", "", 5),
        ("train.steps", "0", 2), ("train.max_train_steps", "-1", 2), ("train.rank", "0", 2), ("sample.steps", "0", 2),
    ],
)  # fmt: skip
def test_a_default_that_nothing_could_be_learned_with_is_refused(settings_file, key, value, code, capsys):
    assert run(["config", key, value] if not value.startswith("-") else ["config", key, "--", value]) == code
    assert "hint" in capsys.readouterr().err
    assert not settings_file.exists()


def test_json_shows_every_setting(capsys):
    assert run(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == config.config_values(config.Config())


def test_without_a_home_the_settings_are_the_built_in_ones(monkeypatch):
    def homeless(name):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("CONCEPTCTL_CONFIG", raising=False)
    for find in (homeless, lambda name: Path("~/.config")):
        monkeypatch.setattr("platformdirs.user_config_path", find)
        assert config.load_config() == config.Config()
        with pytest.raises(NotFound, match="no home"):
            config.set_value("sample.steps", "3")
