"""Lightning's Trainer with options that tell one batch (`1`) from all of them (`1.0`)."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from jsonargparse.typing import register_type
from pytorch_lightning import Trainer

from petl_bench.lightning_seams import leave_figures_in_place
from petl_bench.storage.untrusted import shown


class Share(float):
    """A share of the batches: what is written as a whole number is a number of batches, and no share."""


def _share(value: object) -> Share:
    whole = isinstance(value, str) and value.strip().lstrip("+-").isdigit()
    try:
        number = float(value) if isinstance(value, str | float) and not whole else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"neither batches (1, 2, ...) nor their share (0.0 to 1.0): {shown(value)}")
    return Share(number)


register_type(Share, serializer=float, deserializer=_share)


class CountingTrainer(Trainer):
    """The Trainer; the types of its options differ, and its logs take less time.

    It declares them as `Optional[Union[int, float]]`. `typing` takes that for equal to `Optional[Union[float, int]]`
    and gives either whichever was written first in the process, by any library; the parser tries the members in order
    and a float takes whole numbers. So `1` would be one batch or all of them. A `Share` takes none.

    Args:
        limit_train_batches: of an epoch: how many (`1`), or which share (`0.5`); null trains on all.
        limit_val_batches: the same of the validation; 0 leaves it out.
        limit_test_batches: refused: a test counts every sample.
        limit_predict_batches: refused likewise.
        overfit_batches: training batches that every epoch and the validation are made of; 0.0 takes all.
        val_check_interval: batches (`100`), a share of an epoch (`0.25`) or a time between validations.
    """

    def __init__(
        self,
        *args: Any,
        limit_train_batches: int | Share | None = None,
        limit_val_batches: int | Share | None = None,
        limit_test_batches: int | Share | None = None,
        limit_predict_batches: int | Share | None = None,
        overfit_batches: int | Share = Share(0.0),  # noqa: B008  # a number
        val_check_interval: int | Share | str | timedelta | dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            **kwargs,
        )
        leave_figures_in_place(self)
