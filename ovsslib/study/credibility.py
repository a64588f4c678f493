"""What published numbers say about each other: sums that do not add up, gains beyond the cited
work's own.

`data/claims/credibility.csv` has one rule per row. Its numbers are formulas over claim ids
(`evaluation/formulas.py`), so none is typed twice, and each rule states a comparison that must
hold.
"""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from ovsslib import paths
from ovsslib.errors import DataError
from ovsslib.study.formulas import evaluate, identifiers, render

COLUMNS = ("pattern", "verdict", "holds", "reason")
VERDICTS = ("not credible", "remark")


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """These columns of a UTF-8 CSV file, all as text ("" where empty). Raises DataError with file
    and line."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:  # pandas's parser errors and bad UTF-8 are ValueErrors
        raise DataError(f"{path}: cannot be read as a UTF-8 table ({error})") from None
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(f"{path}, line 1: missing columns {missing}; a file has {list(columns)}")
    return frame[list(columns)]


def load_credibility(claims: pd.DataFrame, path: str | Path | None = None) -> pd.DataFrame:
    """The checked rules: columns ids (tuple of claim ids), verdict, holds, reason (numbers filled
    in).

    `pattern` holds globs over claim ids, those with a leading "!" taken out again. `holds` is a
    comparison that must be true (or empty); in `reason`, `{id}` is a claim as printed, `{id:high}`
    the upper end of a range (in formulas only), `[= formula | digits]` a result.

    Args:
        claims: all claims, as `evaluation.claims.load_claims` gives them.
        path: the file; the shipped one if None.

    Raises:
        DataError: with file and line, for a pattern that finds no claim, an unknown verdict or id,
            a formula that is not arithmetic, or one that does not hold.
    """
    path = Path(path) if path is not None else paths.data("claims/credibility.csv")
    texts = dict(zip(claims["id"], claims["text"], strict=True))
    values = dict(zip(claims["id"], claims["value"].astype(float), strict=True))
    for name, high in zip(claims["id"], claims["value_high"].astype(float), strict=True):
        if not math.isnan(high):
            values[f"{name}:high"] = high
    rules = []
    for number, row in enumerate(read_table(path, COLUMNS).to_dict("records"), start=2):
        ids = _matching(row["pattern"], texts)
        try:
            if not ids:
                raise DataError(f"pattern {row['pattern']!r} finds no claim")
            if row["verdict"] not in VERDICTS:
                raise DataError(f"unknown verdict {row['verdict']!r}; known: {VERDICTS}")
            if row["holds"] and not evaluate(row["holds"], values):
                operands = {name: values[name] for name in identifiers(row["holds"])}
                raise DataError(f"{row['holds']} does not hold: {operands}")
            reason = render(row["reason"], values, texts)
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        rules.append((ids, row["verdict"], row["holds"], reason))
    return pd.DataFrame(rules, columns=["ids", "verdict", "holds", "reason"])


def _matching(pattern: str, ids: Iterable[str]) -> tuple[str, ...]:
    words = pattern.split()
    globs = [word for word in words if not word.startswith("!")]
    excluded = [word[1:] for word in words if word.startswith("!")]
    return tuple(
        name
        for name in ids
        if any(fnmatchcase(name, word) for word in globs)
        and not any(fnmatchcase(name, word) for word in excluded)
    )
