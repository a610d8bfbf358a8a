import contextlib
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from schemas import formula

NAMES = ("click", "like", "watch_time")
FUNCTIONS = {
    "exp": math.exp,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "minimum": min,
    "maximum": max,
}


def expressions() -> st.SearchStrategy[str]:
    numbers = st.one_of(
        st.integers(0, 9).map(str), st.floats(0, 9, allow_subnormal=False).map(repr)
    )
    leaves = st.one_of(numbers, st.sampled_from(NAMES))

    def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            # No parentheses: precedence must be Python's.
            st.builds("{} {} {}".format, inner, st.sampled_from(["+", "-", "*", "/"]), inner),
            st.builds("({}) ** {}".format, inner, st.sampled_from(["2", "-1", "0.5"])),
            st.builds("-{}".format, inner),
            st.builds("({})".format, inner),
            st.builds("{}({})".format, st.sampled_from(["exp", "log1p", "sqrt"]), inner),
            st.builds("{}({}, {})".format, st.sampled_from(["minimum", "maximum"]), inner, inner),
        )

    return st.recursive(leaves, extend, max_leaves=12)


def parsed(text):
    """The syntax tree of a formula, or why it is refused."""
    try:
        return formula.parse(text, NAMES)
    except ValueError as error:
        return str(error)


def outcome(call):
    """What a call returns, or the name of the arithmetic error that it raises."""
    try:
        return call()
    except (ArithmeticError, ValueError, TypeError) as error:
        # TypeError: an order between complex numbers, e.g. minimum((-2) ** 0.5, 1).
        return type(error).__name__


@given(
    text=expressions().map(lambda text: f"{text} + click"),
    values=st.fixed_dictionaries({name: st.floats(-5, 5) for name in NAMES}),
)
def test_evaluate_equals_pythons_own_evaluation(text, values):
    tree = parsed(text)
    if isinstance(tree, str):
        assert tree.endswith("is not a finite number")
        return
    ours = outcome(lambda: formula.evaluate(tree, values, FUNCTIONS))
    pythons = outcome(lambda: eval(text, {"__builtins__": {}}, {**FUNCTIONS, **values}))
    if isinstance(ours, str) or isinstance(pythons, str):
        assert ours == pythons
    else:
        np.testing.assert_equal(ours, pythons)


def test_evaluates_arrays():
    tree = formula.parse("click + 2 * log1p(watch_time) - minimum(click, 0.25)", NAMES)
    values = {"click": np.array([0.1, 0.9]), "watch_time": np.array([0.0, 30.0])}
    functions = {name: getattr(np, name) for name in formula.FUNCTIONS}
    np.testing.assert_allclose(
        formula.evaluate(tree, values, functions),
        [0.0, 0.9 + 2 * np.log1p(30.0) - 0.25],
    )


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "click.__class__",
        "click[0]",
        "[click]",
        "(click, like)",
        "{click}",
        "f'{click}'",
        "'click'",
        "True + click",
        "1j * click",
        "None",
        "...",
        "lambda: click",
        "click if like else 0",
        "click < like",
        "click and like",
        "not click",
        "+click",
        "~click",
        "click % 2",
        "click // 2",
        "click @ like",
        "click << 2",
        "click := 2",
        "(click := 2)",
        "[click for click in like]",
        "exp(x=click)",
        "exp(*click)",
        "exp(**click)",
        "exp()",
        "exp(click, like)",
        "minimum(click)",
        "open(click)",
        "eval(click)",
        "exp",
        "exp.real(click)",
        "exp(exp)(click)",
        "click = 2",
        "click; like",
        "await click",
        "click +",
        "",
    ],
)
def test_anything_but_arithmetic_is_rejected(text):
    with pytest.raises(ValueError, match=r".+"):
        formula.parse(text, NAMES)


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text):
    # Nothing but a ValueError may escape, whatever a spec holds.
    with contextlib.suppress(ValueError):
        formula.parse(text, NAMES)


def test_an_error_names_what_is_unknown():
    with pytest.raises(ValueError, match=r"unknown name 'clik'; known: click, like, watch_time"):
        formula.parse("clik + like", NAMES)
    with pytest.raises(ValueError, match=r"unknown function 'log'; known: exp, log1p"):
        formula.parse("log(click)", NAMES)


def test_a_formula_without_a_task_is_rejected():
    with pytest.raises(ValueError, match="uses none of"):
        formula.parse("1 + exp(2)", NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0",
        "10 ** 400",
        "exp(1000)",
        "(-1) ** 0.5",
        "log1p(-1)",
        "sqrt(-1)",
        "minimum(1e999, 2)",
        "1" + "0" * 400,
    ],
)
def test_constants_that_are_no_finite_number_are_rejected(text):
    with pytest.raises(ValueError, match="is not a finite number"):
        formula.parse(f"click + {text}", NAMES)


def test_nesting_beyond_what_python_can_parse_is_rejected():
    with pytest.raises(ValueError, match=r"nested too deeply|not an arithmetic expression"):
        formula.parse("(" * 5000 + "click" + ")" * 5000, NAMES)
    with pytest.raises(ValueError, match="nested too deeply"):
        formula.parse("+".join(["click"] * 20_000), NAMES)
