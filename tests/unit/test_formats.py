import pytest

from petl_bench.formats import number


@pytest.mark.parametrize(
    ("value", "least", "shown"),
    [
        (213.44, 1, "213.4"),
        (0.053724, 1, "0.0537"),
        (0.9999, 2, "1.000"),
        (4.5, 2, "4.50"),
        (3600.4, 0, "3600"),
        (3.61, 0, "3.61"),
        (1e-9, 2, "0.00000000100"),
        (-0.00123, 2, "-0.00123"),
        (0.0, 2, "0.00"),
        (0, 0, "0"),
    ],
)
def test_a_number_shows_three_digits_at_least(value: float, least: int, shown: str) -> None:
    assert number(value, least) == shown
