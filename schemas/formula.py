"""Arithmetic over task names, for the combined ranking score.

A formula is a Python expression of numbers, names, + - * / **, parentheses and the
functions of `FUNCTIONS`, evaluated on any values that overload those operators.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}

_OF_CONSTANTS: dict[str, Callable[..., Any]] = {
    "exp": math.exp,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "minimum": min,
    "maximum": max,
}

FUNCTIONS = tuple(_OF_CONSTANTS)


def parse(text: str, names: Collection[str]) -> ast.expr:
    """Parses a formula.

    Args:
        text: the formula.
        names: the names it may use.

    Returns:
        Its syntax tree, for `evaluate`.

    Raises:
        ValueError: naming what the formula may not contain.
    """
    try:
        tree = ast.parse(text, mode="eval").body
        used = _check(tree, frozenset(names))
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not an arithmetic expression: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("the formula is nested too deeply") from error
    if not used:
        raise ValueError(f"{text!r} uses none of {', '.join(names)}")
    return tree


def names_in(tree: ast.expr) -> frozenset[str]:
    """Names that a formula reads, those of its functions included."""
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _check(node: ast.expr, names: frozenset[str]) -> bool:
    """Raises ValueError on what is not allowed; returns whether a name is used."""
    used = _check_parts(node, names)
    if not used:
        try:
            finite = math.isfinite(evaluate(node, {}, _OF_CONSTANTS))
        except (ArithmeticError, TypeError, ValueError):  # a complex number is a TypeError
            finite = False
        if not finite:
            raise ValueError(f"{ast.unparse(node)!r} is not a finite number")
    return used


def _check_parts(node: ast.expr, names: frozenset[str]) -> bool:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return False
        case ast.Name(id=name):
            if name not in names:
                raise ValueError(f"unknown name {name!r}; known: {', '.join(sorted(names))}")
            return True
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _check(operand, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _check(left, names) | _check(right, names)
        case ast.Call(func=ast.Name(id=function), args=args, keywords=[]):
            if function not in FUNCTIONS:
                raise ValueError(f"unknown function {function!r}; known: {', '.join(FUNCTIONS)}")
            wanted = 2 if function in ("minimum", "maximum") else 1
            if len(args) != wanted:
                raise ValueError(f"{function} takes {wanted} argument(s), got {len(args)}")
            used = [_check(arg, names) for arg in args]
            return any(used)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed in a formula")


def evaluate(
    tree: ast.expr, values: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]
) -> Any:
    """Evaluates a parsed formula.

    Args:
        tree: what `parse` returned.
        values: value of each name, scalars or arrays of one shape.
        functions: implementation of each of `FUNCTIONS`, e.g. `numpy`'s or `tf.math`'s.

    Returns:
        The value, of the type that the operators give.
    """
    match tree:
        case ast.Constant(value=int() | float() as value):
            # TensorFlow would make an integer tensor of an integer.
            return float(value)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(operand=operand):
            return -evaluate(operand, values, functions)
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](
                evaluate(left, values, functions), evaluate(right, values, functions)
            )
        case ast.Call(func=ast.Name(id=function), args=args):
            return functions[function](*(evaluate(arg, values, functions) for arg in args))
    raise AssertionError(f"parse let through {ast.dump(tree)}")
