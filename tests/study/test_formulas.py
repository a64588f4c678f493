"""Formulas over named numbers: right values, and nothing but arithmetic."""

import pytest

from ovsslib.errors import DataError
from ovsslib.study.formulas import evaluate, identifiers, render

VALUES = {"a-1": 16.41, "b.2+c": 9.71, "sum": 22.15}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("{a-1} + {b.2+c}", 26.12),
        ("-{a-1} * 2", -32.82),
        ("2 - -{b.2+c}", 11.71),
        ("196 ** 2 * 8", 307328),
        ("max({a-1}, {sum}) / 2", 11.075),
        ("round(80 / 7 * 10) / 10", 11.4),
        ("abs({b.2+c} - {a-1})", 6.7),
    ],
)
def test_values(formula, value):
    assert evaluate(formula, VALUES) == pytest.approx(value)


@pytest.mark.parametrize(
    ("formula", "truth"),
    [
        ("{a-1} + {b.2+c} > {sum}", True),
        ("{a-1} > {sum}", False),
        ("1 < 2 < 3 and 3 <= 3", True),
        ("1 < 2 < 2", False),
        ("1 > 2 and 1 < 2", False),
    ],
)
def test_comparisons(formula, truth):
    assert evaluate(formula, VALUES) is truth


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').getcwd()",
        "(1).__class__",
        "[1, 2][0]",
        "'text'",
        "True + 1",
        "open",
        "lambda: 1",
        "sum(1, 2)",
        "max(1, key=abs)",
        "9 ** 999",
        "1 if 2 else 3",
        "{unknown} + 1",
        "1 / 0",
        "1 +",
        "",
    ],
)
def test_anything_else_is_refused(formula):
    with pytest.raises(DataError, match="formula"):
        evaluate(formula, VALUES)


def test_render():
    text = "{a-1} + {b.2+c} = [= {a-1} + {b.2+c}] > {sum}, [= {sum} | 0] or [= 1 / 3 | 3]"
    printed = {name: str(value) for name, value in VALUES.items()}
    assert render(text, VALUES, printed) == "16.41 + 9.71 = 26.12 > 22.15, 22 or 0.333"
    assert identifiers(text) == ["a-1", "b.2+c", "sum"]
    with pytest.raises(DataError, match="unknown identifier 'nobody'"):
        render("{nobody}", VALUES, printed)
