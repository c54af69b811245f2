"""How far something is: what fits on a line, how long it still takes, and what is said where there is no terminal."""

import io

import pytest
from rich.console import Console

from conceptctl.cli.output import Output
from conceptctl.cli.progress import ProgressLine, Stage, clock_text, fitted, in_megabytes


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def text_of(pieces):
    return "".join(text for text, _ in pieces)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (63, "1:03"), (3599.6, "1:00:00"), (3723, "1:02:03")])
def test_times_are_those_of_a_clock(seconds, text):
    assert clock_text(seconds) == text


def learning(text="learning", done=300, notes=("loss 0.0458", "density 69 %", "denoising 0.0411")):
    stage = Stage(text, 1000, 0, 0.0)
    stage.done, stage.notes = done, notes
    return stage


TIMES = ["0:12 elapsed", "1:03 left"]


def test_a_line_has_all_that_there_is_room_for():
    wide = text_of(fitted(learning(), TIMES, 119))
    assert wide == (
        "learning 300/1000 " + "━" * 6 + "─" * 14 + " 30 %  0:12 elapsed, 1:03 left  loss 0.0458  density 69 %"
        "  denoising 0.0411"
    )
    assert text_of(fitted(learning(), TIMES, 79)).endswith(" 30 %  0:12 elapsed, 1:03 left  loss 0.0458")
    assert "#" in text_of(fitted(learning(), TIMES, 79, plain=True))


@pytest.mark.parametrize("width", range(48, 120))
@pytest.mark.parametrize("text", ["learning", "drawing waterfall pictures to learn beside", "measuring importance"])
def test_a_line_fits_and_says_what_matters(text, width):
    line = text_of(fitted(learning(text), TIMES, width))
    assert len(line) <= width
    assert line.startswith(text[:6])
    assert " 30 %" in line
    assert "1:03 left" in line
    assert "loss 0.0458" in line
    assert ("0:12 elapsed" in line and "━" in line) or width < 64


def test_a_stage_of_unknown_length_has_no_bar():
    assert text_of(fitted(Stage("loading the model", 0, 0, 0.0), ["0:03 elapsed"], 79)) == (
        "loading the model  0:03 elapsed"
    )


def test_the_time_left_is_right_from_the_first_tenth_on_though_the_first_unit_is_slow():
    stage = Stage("learning", 100, 0, 0.0)
    now = 0.0
    assert stage.seconds_left(0.0) is None
    for done in range(1, 101):
        now += 20.0 if done == 1 else 1.0
        stage.update(done, now)
        if done >= 10:
            assert stage.seconds_left(now) == pytest.approx(100 - done)
    # Between two updates it goes on.
    assert Stage("x", 0, 0, 0.0).seconds_left(9.0) is None


def test_what_an_earlier_run_did_tells_nothing_of_the_pace():
    stage = Stage("learning", 100, 0, 5.0)
    stage.update(60, 5.001)
    assert stage.seconds_left(6.0) is None
    for step in range(1, 11):
        stage.update(60 + step, 5.0 + 2 * step)
    assert stage.seconds_left(25.0) == pytest.approx(60.0, rel=0.01)
    assert stage.seconds_left(26.0) == pytest.approx(59.0, rel=0.01)


def test_units_that_come_in_batches_are_no_faster_at_the_first_of_a_batch():
    stage = Stage("drawing", 24, 0, 0.0)
    for batch in (1, 2):
        for unit in range(1, 9):
            stage.update(8 * (batch - 1) + unit, 10.0 * batch + 0.001 * unit)
        assert stage.seconds_left(10.0 * batch) == pytest.approx(30 - 10 * batch, rel=0.01)


def test_the_time_left_is_of_everything_where_it_is_known_what_comes_after():
    said, clock = [], Clock()
    shown = ProgressLine(said.append, clock=clock)
    shown.stage("learning", 10)
    for ahead in (None, 30.0):
        shown.ahead = ahead
        for step in range(1, 6):
            clock.now += 10.0
            shown.update(step)
        shown.stage("learning", 10)
    assert said[5] == "learning: 5 of 10, 0:50 elapsed, 0:50 left in stage"
    assert said[-2] == "learning: 5 of 10, 1:40 elapsed, 1:20 left"


def test_what_comes_after_is_what_is_left_until_the_next_stage_knows_better():
    said, clock = [], Clock()
    shown = ProgressLine(said.append, clock=clock)
    shown.stage("learning", 2)
    shown.ahead = 40.0
    clock.now += 10.0
    shown.stage("drawing", 10)
    shown.ahead = None
    clock.now += 5.0
    assert shown._times(shown._current, clock.now) == ["0:15 elapsed", "0:35 left"]
    shown.ahead = 0.0
    shown.update(5)
    assert shown._times(shown._current, clock.now) == ["0:15 elapsed", "0:05 left"]


def test_where_there_is_no_terminal_a_stage_has_ten_lines_at_most_and_none_when_it_is_short():
    said, clock = [], Clock()
    shown = ProgressLine(said.append, clock=clock)
    long, short = shown("drawing"), shown("reading prompts")
    for done in range(1, 1001):
        clock.now += 0.1
        long(done, 1000)
    assert said[0] == "drawing: 1000 to do"
    assert said[1] == "drawing: 100 of 1000, 0:10 elapsed, 1:30 left"
    assert len(said) == 10
    for done in range(1, 101):
        short(done, 100)
    assert said[10:] == ["reading prompts: 100 to do"]


def test_what_an_earlier_stage_took_is_not_counted_for_the_next():
    clock = Clock()
    shown = ProgressLine(lambda text: None, clock=clock)
    first, second = shown("reading"), shown("writing")
    for done in range(1, 5):
        clock.now += 100.0
        first(done, 4)
    for done in range(1, 3):
        clock.now += 1.0
        second(done, 4)
    assert shown._current.seconds_left(clock.now) == pytest.approx(2.0)


def test_the_line_is_taken_away_and_prose_stands_above_it():
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    shown = ProgressLine(lambda text: None, console)
    shown.stage("loading the model")
    assert "0:00 elapsed" in written.getvalue()
    shown.close()
    assert "\x1b[2K" in written.getvalue().rpartition("elapsed")[2]


@pytest.mark.parametrize("how", [{"as_json": True}, {"quiet": True}, {"silent": True}])
def test_nothing_is_shown_to_those_who_want_no_prose(how, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Output(**how).progress() as shown:
        shown("drawing")(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("how", "told"), [({}, True), ({"quiet": True}, True), ({"as_json": True}, False), ({"silent": True}, False)]
)
def test_warnings_reach_those_who_want_no_prose_too(how, told, capsys):
    out = Output(**how)
    out.warn("these show different things")
    assert capsys.readouterr() == ("", "warning: these show different things\n" if told else "")
    assert out.warnings == ["these show different things"]


def test_bytes_are_told_in_megabytes():
    told = []
    update = in_megabytes(lambda done, total: told.append((done, total)))
    update(0, 2_000_000_001)
    update(1, 2_000_000_001)
    update(2_000_000_001, 2_000_000_001)
    assert told == [(0, 2001), (1, 2001), (2001, 2001)]
