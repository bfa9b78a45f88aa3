"""What a trial reports to Ray Tune."""

from __future__ import annotations

from math import nan

import pytest

from pipeline.errors import InputError
from pipeline.sweep_trial import metric_value

CLASSES = ("road", "sky", "car")


def test_the_metric_is_that_of_all_classes_or_of_one() -> None:
    iou = [0.9, None, nan]
    assert metric_value("miou", 0.5, iou, ()) == 0.5
    assert metric_value("iou/road", 0.5, iou, CLASSES) == 0.9
    assert metric_value("iou/sky", 0.5, iou, CLASSES) is None
    assert metric_value("iou/car", 0.5, iou, CLASSES) is None
    assert metric_value("miou", None, [], ()) is None
    assert metric_value("iou/road", None, [], CLASSES) is None


def test_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        metric_value("iou/bus", 0.5, [0.9, 0.1, 0.2], CLASSES)
    assert str(caught.value) == "metric: 'iou/bus': the data set has the classes road, sky, car"
