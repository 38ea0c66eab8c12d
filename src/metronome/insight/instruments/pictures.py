"""Pictures for TensorBoard: a confusion matrix, and samples with what they were taken for."""

import numpy as np

_INCHES = 4.4  # wide: TensorBoard shows pictures some 320 pixels wide, and letters are to stay legible there
_MOST_NUMBERED = 12  # classes; of more the numbers in the cells could not be read


def confusion_picture(counts: np.ndarray) -> np.ndarray:
    """A square for each class (row) and what it was taken for (column), as dark as it is frequent in the row.

    Args:
        counts: samples, shape (classes, classes).

    Returns:
        The picture, uint8 of shape (height, width, 3).
    """
    from matplotlib.figure import Figure  # slow to import, and seldom needed

    classes, right = len(counts), int(np.trace(counts))
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = Figure(figsize=(_INCHES, _INCHES), dpi=100, layout="constrained")
    axes = drawn.add_subplot()
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"{right:,} of {int(counts.sum()):,} right", fontsize=12)
    axes.set_xlabel("taken for class", fontsize=12)
    axes.set_ylabel("class", fontsize=12)
    if classes <= _MOST_NUMBERED:
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour)
    return _drawn(drawn)


def mistakes_picture(
    inputs: np.ndarray, labels: np.ndarray, taken_for: np.ndarray, certainty: np.ndarray
) -> np.ndarray | None:
    """Samples beside each other, each under its class, what it was taken for and how certain that was.

    Args:
        inputs: shape (samples, height, width), or (samples, channels, height, width) with 1 or 3 channels.
        labels, taken_for, certainty: shape (samples,); a probability the last.

    Returns:
        The picture, uint8 of shape (height, width, 3); None for inputs that are no images.
    """
    from matplotlib.figure import Figure

    if inputs.ndim == 4:
        if inputs.shape[1] not in (1, 3):
            return None
        inputs = np.moveaxis(inputs, 1, -1)
    columns = 4
    rows = -(-len(inputs) // columns)
    drawn = Figure(figsize=(_INCHES, 1.35 * rows * _INCHES / columns + 0.3), dpi=100, layout="constrained")
    drawn.suptitle("class → taken for, its probability", fontsize=11)
    for i, image in enumerate(inputs):
        axes = drawn.add_subplot(rows, columns, i + 1)
        low, high = float(image.min()), float(image.max())
        axes.imshow((image - low) / max(high - low, 1e-12), cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{int(labels[i])} → {int(taken_for[i])}, {certainty[i]:.2f}", fontsize=9)
        axes.set_axis_off()
    return _drawn(drawn)


def _drawn(figure) -> np.ndarray:  # pyright: ignore
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
