"""How well a classifier that learns one task after the other tells all classes apart that it has learned so far.

It is never told which task a picture is of. Accuracies are shares, 0 to 1. A task counts as much as any other, however
many pictures it is tested on, as in mammoth and in CODA-Prompt's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Matrix = Sequence[Sequence[float]]
"""a[i][j], the accuracy on task j after task i: row i has an entry for each task up to i, and may have more."""


@dataclass(frozen=True)
class Figures:
    """What a matrix of accuracies comes to, for N tasks."""

    final_accuracy: float
    """A_N: the mean of a[N-1][j] over all tasks, which is the last of `average_accuracy` (Smith et al. 2023, section 5;
    STAMINA, figure 6). Larger is better."""
    average_accuracy: tuple[float, ...]
    """A_1 to A_N: after each task, the mean over the tasks learned so far."""
    average_anytime_accuracy: float
    """The mean of A_1 to A_N (Caccia et al. 2022, "New insights on reducing abrupt representation change in online
    continual learning"). Larger is better."""
    forgetting: float | None
    """Mean over all tasks but the last of how far the best accuracy before the last task is above the final one: the
    largest a[l][j] with j <= l < N-1, less a[N-1][j] (Chaudhry et al. 2018, "Riemannian walk", section 3). Smaller is
    better; negative where tasks ended better than they ever were; None for one task alone."""
    backward_transfer: float | None
    """Mean over all tasks but the last of a[N-1][j] - a[j][j] (Lopez-Paz and Ranzato 2017, eq. 3). Larger is better;
    None for one task alone."""


def figures_of(matrix: Matrix) -> Figures:
    """Compute the figures of one run.

    Args:
        matrix: One row for each task, in the order of learning; what is right of its diagonal does not count.

    Raises:
        ValueError: There is no row, or one has no entry for a task that was learned by then.
    """
    if not matrix or any(len(row) <= number for number, row in enumerate(matrix)):
        raise ValueError("after task i there must be an accuracy on each task up to i")
    average = tuple(_mean(row[: number + 1]) for number, row in enumerate(matrix))
    *before, final = matrix
    earlier = range(len(before))
    best = [max(row[task] for row in before[task:]) for task in earlier]
    return Figures(
        final_accuracy=average[-1],
        average_accuracy=average,
        average_anytime_accuracy=_mean(average),
        forgetting=_mean([best[task] - final[task] for task in earlier]) if before else None,
        backward_transfer=_mean([final[task] - matrix[task][task] for task in earlier]) if before else None,
    )


def accuracy_matrix(
    labels: Sequence[Sequence[int]], predicted: Sequence[Sequence[Sequence[int]]]
) -> tuple[tuple[float, ...], ...]:
    """Count how many pictures were told right, to a matrix as `figures_of` takes it.

    Args:
        labels: Of each task, the true classes of its test pictures.
        predicted: After each task, of each task up to it, the classes that its test pictures were taken for.

    Raises:
        ValueError: There are not as many predictions as labels, or none.
    """
    return tuple(tuple(accuracy(labels[task], answers) for task, answers in enumerate(tasks)) for tasks in predicted)


def accuracy(labels: Sequence[int], predicted: Sequence[int]) -> float:
    """Return the share of predictions that are right.

    Raises:
        ValueError: There are not as many predictions as labels, or none.
    """
    return share(sum(label == answer for label, answer in zip(labels, predicted, strict=True)), len(labels))


def share(correct: int, pictures: int) -> float:
    """Return the accuracy of so many correct predictions.

    Raises:
        ValueError: There are no pictures.
    """
    if not pictures:
        raise ValueError("an accuracy needs pictures")
    return correct / pictures


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
