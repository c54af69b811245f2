"""A_N, average and anytime accuracy, forgetting and backward transfer against peers' definitions, written out here."""

import random

import pytest

from conceptctl.metrics.classification import accuracy, accuracy_matrix, figures_of

CLASSES, TASKS, PICTURES = 12, 6, 40


@pytest.fixture(scope="module")
def labels():
    rng = random.Random(0)
    return [[2 * task + rng.randrange(2) for _ in range(PICTURES)] for task in range(TASKS)]


@pytest.fixture(scope="module")
def predicted(labels):
    """Right the less often, the longer ago a task was learned; sometimes better again."""
    rng = random.Random(1)
    return [
        [
            [
                label if rng.random() < 0.95 - 0.1 * (after - task) * rng.random() else rng.randrange(CLASSES)
                for label in of
            ]
            for task, of in enumerate(labels[: after + 1])
        ]
        for after in range(TASKS)
    ]


@pytest.fixture(scope="module")
def figures(labels, predicted):
    return figures_of(accuracy_matrix(labels, predicted))


def shares(labels, predicted):
    """Accuracy after each task on each that was learned, as a dictionary by both."""
    return {
        (after, task): sum(map(int.__eq__, labels[task], answers)) / len(answers)
        for after, tasks in enumerate(predicted)
        for task, answers in enumerate(tasks)
    }


def test_average_accuracy_is_the_mean_over_tasks_seen(labels, predicted, figures):
    """What mammoth logs as class-incremental mean accuracy, and CODA-Prompt's trainer as its history of averages."""
    found = shares(labels, predicted)
    wanted = [sum(found[after, task] for task in range(after + 1)) / (after + 1) for after in range(TASKS)]
    assert figures.average_accuracy == pytest.approx(wanted, abs=1e-12)
    assert figures.final_accuracy == pytest.approx(wanted[-1], abs=1e-12)
    assert figures.average_anytime_accuracy == pytest.approx(sum(wanted) / TASKS, abs=1e-12)


def test_where_tasks_have_equally_many_pictures_it_is_avalanches_stream_accuracy(labels, predicted, figures):
    """Avalanche counts every picture of the stream alike."""
    right = [
        a == b for of, answers in zip(labels, predicted[-1], strict=True) for a, b in zip(of, answers, strict=True)
    ]
    assert figures.final_accuracy == pytest.approx(sum(right) / len(right), abs=1e-12)


def test_forgetting_is_chaudhrys(labels, predicted, figures):
    found = shares(labels, predicted)
    falls = []
    for task in range(TASKS - 1):
        best = -1.0
        for after in range(task, TASKS - 1):
            best = max(best, found[after, task])
        falls.append(best - found[TASKS - 1, task])
    assert figures.forgetting == pytest.approx(sum(falls) / (TASKS - 1), abs=1e-12)
    assert figures.forgetting > 0


def mammoths(rows):
    """As mammoth documents it: the maximum is over all rows, the last one with them, and what was not seen is 0."""
    full = [[*row, *[0.0] * (len(rows) - len(row))] for row in rows]
    return sum(max(row[task] for row in full) - full[-1][task] for task in range(len(rows) - 1)) / (len(rows) - 1)


def test_forgetting_is_mammoths_where_no_task_ends_at_its_best(labels, predicted):
    *before, final = accuracy_matrix(labels, predicted)
    fallen = [*before, [value - 0.5 for value in final]]
    risen = [*before, [value + 0.5 for value in final]]
    assert figures_of(fallen).forgetting == pytest.approx(mammoths(fallen), abs=1e-12)
    assert figures_of(risen).forgetting < mammoths(risen) == 0


def test_backward_transfer_is_mammoths_and_avalanches_forgetting_with_the_other_sign(labels, predicted, figures):
    found = shares(labels, predicted)
    last = TASKS - 1
    # Avalanche's forgetting of an experience: its accuracy just after it was learned, less the one of now.
    avalanche = [found[task, task] - found[last, task] for task in range(last)]
    assert figures.backward_transfer == pytest.approx(-sum(avalanche) / last, abs=1e-12)


def test_a_task_that_ended_better_than_ever_was_forgotten_less_than_nothing():
    figures = figures_of([[0.5], [0.8, 0.9]])
    assert figures.forgetting == pytest.approx(-0.3)
    assert figures.backward_transfer == pytest.approx(0.3)


def test_one_task_alone_has_nothing_to_forget():
    figures = figures_of([[0.75]])
    assert (figures.final_accuracy, figures.average_accuracy, figures.average_anytime_accuracy) == (0.75, (0.75,), 0.75)
    assert figures.forgetting is None
    assert figures.backward_transfer is None


def test_what_is_right_of_the_diagonal_does_not_count():
    assert figures_of([[0.5, 0.9, 0.9], [0.4, 0.6, 0.9], [0.3, 0.5, 0.7]]) == figures_of(
        [[0.5], [0.4, 0.6], [0.3, 0.5, 0.7]]
    )


def test_tasks_count_alike_however_many_pictures_they_have():
    matrix = accuracy_matrix([[0], [1, 1, 1, 1]], [[[0]], [[0], [1, 0, 0, 0]]])
    assert matrix == ((1.0,), (1.0, 0.25))
    assert figures_of(matrix).final_accuracy == 0.625


@pytest.mark.parametrize("matrix", [[], [[]], [[0.5], [0.5]]])
def test_a_matrix_that_lacks_a_task_is_refused(matrix):
    with pytest.raises(ValueError, match="an accuracy on each task"):
        figures_of(matrix)


def test_accuracies_need_a_prediction_for_every_picture():
    with pytest.raises(ValueError, match="needs pictures"):
        accuracy([], [])
    with pytest.raises(ValueError, match="zip"):
        accuracy([1, 2], [1])
