"""Counts: rounding, both figures of constants on the real file, clips that could not be read, any order of batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from petl_bench.errors import DataError, DistributedError, NonFiniteError
from petl_bench.metrics.count import CountMetric, rounded
from petl_bench.metrics.ranks import figures_of
from petl_bench.metrics.table import FIGURES, figure_called, figure_titled, mode


def test_rounding_is_to_the_even_of_two_and_stays_within_one_and_ten() -> None:
    values = torch.tensor([-3.0, 0.5, 1.49, 1.5, 2.5, 3.5, 9.5, 10.5, 400.0])
    assert rounded(values) == [1, 1, 1, 2, 2, 4, 10, 10, 10]
    with pytest.raises(NonFiniteError, match="NaN or infinite counts"):
        rounded(torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize(("constant", "mse", "raw"), [(2, 7.008, 7.783), (3, 5.631, 6.923)])
def test_constants_on_the_real_test_file(constant: int, mse: float, raw: float, shared: Path) -> None:
    from datamodules.tgif_qa import TGIFCount

    samples = TGIFCount(shared / "data/annotations_2/tgif_qa").samples("test")
    answers = [question.number for sample in samples for question in sample.questions]
    metric = CountMetric()
    metric.update(torch.arange(len(answers)), [constant] * len(answers), answers)
    found = metric.compute()
    figures = figures_of({"squared_error": found.errors, "squared_error_raw": found.raw})
    assert (round(figures["mse"], 3), round(figures["mse_raw"], 3), figures["n"]) == (mse, raw, 3_554)


def test_the_best_that_there_can_be_by_the_raw_answers(shared: Path) -> None:
    from datamodules.tgif_qa import TGIFCount

    samples = TGIFCount(shared / "data/annotations_2/tgif_qa").samples("test")
    answers = [question.number or 0 for sample in samples for question in sample.questions]
    metric = CountMetric()
    metric.update(torch.arange(len(answers)), [max(answer, 1) for answer in answers], answers)
    found = metric.compute()
    assert (found.errors.mean(), round(found.raw.mean(), 3)) == (0, 0.258)


def test_a_clip_that_could_not_be_read_is_the_worst_count() -> None:
    metric = CountMetric()
    metric.update(torch.arange(4), [None, None, None, 4], [0, 3, 10, 4])
    found = metric.compute()
    assert found.errors.tolist() == [81, 49, 81, 0]
    assert found.raw.tolist() == [100, 49, 81, 0]
    assert found.predictions.tolist() == ["", "", "", "4"]


def test_order_does_not_matter_and_nothing_is_counted_twice() -> None:
    metric = CountMetric(expected=3)
    metric.update(torch.tensor([2, 0]), [5, 1], [2, 0])
    with pytest.raises(DistributedError):
        metric.compute()
    metric.update(torch.tensor([1]), [10], [7])
    assert metric.compute().errors.tolist() == [0, 9, 9]
    with pytest.raises(DataError, match="no annotated count"):
        metric.update(torch.tensor([0]), [1], [None])


def test_arrays_that_hold_no_errors_are_refused() -> None:
    good = np.array([1.0, 81.0])
    for raw in (np.array([1.0]), np.array([1.0, 101.0]), np.array([1, 2]), np.array([-1.0, 2.0])):
        with pytest.raises(DataError, match="squared_error"):
            figures_of({"squared_error": good, "squared_error_raw": raw})
    with pytest.raises(DataError, match="squared_error"):
        figures_of({"squared_error": good})


def test_the_table_says_what_is_better() -> None:
    names = ("mse", "val_mse", "val_mse_raw", "val_t2v_MdR", "v2t_MnR", "val_v2t_captions_MdR", "loss", "loss_itm")
    assert {mode(name) for name in names} == {"min"}
    names = ("val_rsum", "val_t2v_R1", "val_accuracy", "val_accuracy_loss", "mean_of_types", "score_of_a_plug_in")
    assert {mode(name) for name in names} == {"max"}
    assert figure_called("val_mse_raw") is figure_titled("MSE raw") is FIGURES["mse_raw"]
    assert figure_titled("v2t_captions MdR") is FIGURES["MdR"]
    for title in ("Accuracy MSE", "Accuracy loss", "Accuracy what"):
        assert figure_titled(title) is FIGURES["accuracy"]
    assert figure_titled("t2v R@1") is FIGURES["R1"]
