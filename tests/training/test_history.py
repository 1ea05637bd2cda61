"""The log of a training, and its figures."""

import numpy as np
import pytest

from codexseg.training.history import History


def lines_of(path):
    return path.read_text().splitlines()


def test_rows_of_incomplete_epochs_are_dropped_on_resume(tmp_path):
    path = tmp_path / "log.csv"
    history = History(path, 0)
    for epoch in range(4):
        history.add(epoch, {"loss": 2.0 - epoch, "val_loss": 3.0})
    assert lines_of(path)[0] == "epoch,loss,val_loss"
    assert len(lines_of(path)) == 5
    resumed = History(path, 2)
    assert [row["epoch"] for row in resumed.rows] == [0, 1]
    resumed.add(2, {"loss": 7.0, "iou": 0.5})
    assert lines_of(path) == [
        "epoch,loss,val_loss,iou",
        "0,2.0,3.0,",
        "1,1.0,3.0,",
        "2,7.0,,0.5",
    ]


@pytest.mark.parametrize(
    ("losses", "patience", "over", "best"),
    [
        ([3, 2, 1], 1, False, 2),
        ([3, 2, 2], 1, True, 1),
        ([3, 2, 2], 2, False, 1),
        ([1, 2, 3, 4], 3, True, 0),
        ([1, 2, 3], None, False, 0),
        ([float("nan"), 2, 3], 1, True, 1),
    ],
)
def test_history_is_over_after_patience_without_improvement(
    tmp_path, losses, patience, over, best
):
    history = History(tmp_path / "log.csv", 0)
    for epoch, loss in enumerate(losses):
        history.add(epoch, {"val_loss": loss})
    assert history.is_over(patience) == over
    assert history.best()["epoch"] == best
    assert History(tmp_path / "log.csv", 99).is_over(patience) == over


def test_history_without_validation_is_never_over(tmp_path):
    history = History(tmp_path / "log.csv", 0)
    history.add(0, {"loss": 1})
    assert history.best() is None
    assert not history.is_over(1)
    assert not History(tmp_path / "none.csv", 5).is_over(1)


def test_curves_and_predictions_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="figures of a training need matplotlib")
    from PIL import Image

    from codexseg.training.plots import PredictedImage, draw_curves, draw_predictions

    rows = [{"epoch": e, "loss": 1 / (e + 1), "iou": 0.5, "val_iou": 0.4} for e in range(3)]
    draw_curves(rows, tmp_path / "curves.png")
    grey, colour = np.zeros((32, 48)), np.ones((32, 48, 3))
    predictions = [
        PredictedImage("a", grey, grey, grey),
        PredictedImage("b", colour, grey, grey),
    ]
    draw_predictions(predictions, tmp_path / "samples.png")
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.width > curves.height
    with Image.open(tmp_path / "samples.png") as drawn:
        assert drawn.height > 400
    draw_predictions([], tmp_path / "none.png")
    draw_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
