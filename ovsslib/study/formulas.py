"""Arithmetic over named numbers, read with `ast` and nothing else: no names, attributes or calls
but these.

A formula is written over identifiers in braces, e.g. `{thesis-t4.1-full-gain-miou} + 2 >
{other-id}`. Used for the arithmetic of `data/claims/credibility.csv` (`evaluation/credibility.py`).
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping

from ovsslib.errors import DataError

_NAME = re.compile(r"\{([^{}]+)\}")
_RESULT = re.compile(r"\[=([^\[\]|]+)(?:\|\s*(\d+)\s*)?\]")
_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.NotEq: operator.ne,
    ast.Eq: operator.eq,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"abs": abs, "min": min, "max": max, "round": round}
_LARGEST_POWER = 8


def identifiers(text: str) -> list[str]:
    """The identifiers in braces, in order, each once."""
    return list(dict.fromkeys(_NAME.findall(text)))


def evaluate(formula: str, values: Mapping[str, float]) -> float | bool:
    """Value of a formula: numbers, `{identifier}`, `+ - * / **`, comparisons, and, abs, min, max,
    round.

    Raises DataError that names an unknown identifier, anything else in the formula, or a division
    by zero.
    """
    names = identifiers(formula)
    for name in names:
        if name not in values:
            raise DataError(f"formula {formula!r}: unknown identifier {name!r}")
    numbers = {f"v{i}": float(values[name]) for i, name in enumerate(names)}
    places = {name: f"v{i}" for i, name in enumerate(names)}
    source = _NAME.sub(lambda match: f"({places[match[1]]})", formula).strip()
    try:
        return _value(ast.parse(source, mode="eval").body, numbers)
    except (SyntaxError, TypeError, ZeroDivisionError, OverflowError, RecursionError) as error:
        raise DataError(f"formula {formula!r}: {error}") from None
    except DataError as error:
        raise DataError(f"formula {formula!r}: {error}") from None


def _value(node: ast.expr, numbers: Mapping[str, float]) -> float | bool:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if name in numbers:
            return numbers[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, numbers)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _value(left, numbers), _value(right, numbers)
            if isinstance(op, ast.Pow) and abs(b) > _LARGEST_POWER:
                raise DataError(f"power {b} is above {_LARGEST_POWER}")
            return _BINARY[type(op)](a, b)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(
            type(o) in _COMPARE for o in ops
        ):
            terms = [_value(left, numbers), *(_value(other, numbers) for other in others)]
            return all(
                _COMPARE[type(o)](a, b) for o, a, b in zip(ops, terms[:-1], terms[1:], strict=True)
            )
        case ast.BoolOp(op=ast.And(), values=parts):
            truths = [
                _value(part, numbers) for part in parts
            ]  # each is checked, also after a false one
            return all(truths)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(argument, numbers) for argument in arguments))
    raise DataError(f"{ast.unparse(node)!r} is not arithmetic")


def render(text: str, values: Mapping[str, float], printed: Mapping[str, str]) -> str:
    """Fill a sentence: `[= formula | digits]` with its value (2 digits if not said), `{identifier}`
    as printed.

    Raises DataError as :func:`evaluate` does, and for an unknown `{identifier}`.
    """

    def result(match: re.Match) -> str:
        digits = 2 if match[2] is None else int(match[2])
        return f"{float(evaluate(match[1], values)):.{digits}f}"

    def name(match: re.Match) -> str:
        if match[1] not in printed:
            raise DataError(f"unknown identifier {match[1]!r} in {text!r}")
        return printed[match[1]]

    return _NAME.sub(name, _RESULT.sub(result, text))
