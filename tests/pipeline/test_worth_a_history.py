import numpy as np
import pyarrow as pa
import pytest

from components.daily_example_gen.fields import Field
from pipeline.onboarding import columns
from pipeline.onboarding.guesses import Guess, Role
from pipeline.onboarding.histories import (
    with_numbered_ids,
    without_untold,
    worth_a_cross,
    worth_a_history,
)

EVENTS = 8000
KINDS = {
    Role.CATEGORICAL: "int",
    Role.DENSE: "number",
    Role.BINARY: "binary",
    Role.REGRESSION: "number",
}


def guessed(of_role):
    """A table of columns given as `<role>_<name>=values`, and what each is for."""
    table, guesses = {}, []
    for key, values in of_role.items():
        role = next(role for role in Role if key.startswith(role.name.lower()))
        name = key.removeprefix(role.name.lower() + "_")
        table[name] = pa.chunked_array([pa.array(values, from_pandas=True)])
        field = Field(name, KINDS[role])
        guesses.append(Guess(field, role, "", columns.describe(table[name])))
    return pa.table(table), guesses


def chosen(**of_role):
    """The ids that are chosen of columns."""
    return [guess.field.name for guess in worth_a_history(*guessed(of_role))]


def crossed(days=1, **of_role):
    """The pairs of ids that are chosen of columns, cut into days of equal size."""
    table, guesses = guessed(of_role)
    ids = worth_a_history(table, guesses)
    size = EVENTS // days
    parts = [table.slice(start, size) for start in range(0, EVENTS, size)]
    return [{guess.field.name for guess in pair} for pair in worth_a_cross(parts, guesses, ids)]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def clicks(rng, logit):
    return (rng.random(EVENTS) < 1 / (1 + np.exp(-logit))).astype(np.float32)


def test_a_category_of_few_values_that_tells_the_label_is_chosen_and_noise_is_not(rng):
    tab, noise = rng.integers(6, size=(2, EVENTS))
    click = clicks(rng, np.array([-2, -1, 0, 0, 1, 2])[tab])
    assert chosen(
        categorical_noise=noise, categorical_tab=tab, categorical_flag=tab // 3, binary_click=click
    ) == ["tab"]


def test_a_log_whose_rows_alternate_is_judged_as_any_other(rng):
    slot = np.arange(EVENTS) % 2 * 3 + rng.integers(3, size=EVENTS)
    click = clicks(rng, np.array([-2, -1, 0, 0, 1, 2])[slot])
    assert chosen(categorical_slot=slot, binary_click=click) == ["slot"]


def test_what_only_repeats_a_chosen_id_is_not_chosen(rng):
    author, tab = rng.integers(20, size=EVENTS), rng.integers(5, size=EVENTS)
    effect = rng.normal(size=20)
    click = clicks(rng, 2 * effect[author] + 0.5 * (tab - 2))
    assert chosen(
        categorical_author=author,
        categorical_channel=19 - author,
        categorical_tab=tab,
        binary_click=click,
    ) in (["author", "tab"], ["channel", "tab"])


def test_large_ids_that_come_back_join_even_if_a_sample_shows_nothing_of_them(rng):
    user, item, once = (
        rng.integers(2000, size=EVENTS),
        rng.integers(300, size=EVENTS),
        range(EVENTS),
    )
    click = clicks(rng, np.zeros(EVENTS))
    assert chosen(
        categorical_item=item, categorical_user=user, categorical_once=once, binary_click=click
    ) == ["user", "item"]


def test_a_tail_of_single_events_does_not_choose(rng):
    tab, lucky = rng.integers(4, size=EVENTS), rng.integers(40, size=EVENTS)
    seconds = tab + rng.normal(size=EVENTS)
    seconds[np.flatnonzero(lucky == 3)[:4]] = 1e6
    assert chosen(categorical_lucky=lucky, categorical_tab=tab, regression_seconds=seconds) == [
        "tab"
    ]


def test_labels_that_many_events_lack_count_where_they_are(rng):
    tab = rng.integers(4, size=EVENTS)
    stars = np.where(rng.random(EVENTS) < 0.1, tab + rng.normal(size=EVENTS), np.nan)
    assert chosen(categorical_tab=tab, regression_stars=stars) == ["tab"]


def test_at_most_six_are_chosen(rng):
    ids = rng.integers(8, size=(9, EVENTS))
    seconds = ids.sum(axis=0) + rng.normal(size=EVENTS)
    given = {f"categorical_id{number}": values for number, values in enumerate(ids)}
    assert len(chosen(**given, regression_seconds=seconds)) == 6


@pytest.mark.parametrize(("lasts", "expected"), [(True, [{"carrier", "hour"}]), (False, [])])
def test_a_pair_that_tells_something_of_its_own_day_alone_is_not_chosen(rng, lasts, expected):
    carrier, hour = rng.integers(12, size=EVENTS), rng.integers(16, size=EVENTS)
    day = np.arange(EVENTS) // (EVENTS // 2)
    weather = rng.normal(size=(2, 12, 16))[0 if lasts else day, carrier, hour]
    seconds = 0.5 * weather + rng.normal(size=EVENTS)
    given = {"categorical_carrier": carrier, "categorical_hour": hour}
    assert crossed(2, **given, regression_seconds=seconds) == expected


@pytest.mark.parametrize("days", [1, 2])
@pytest.mark.parametrize("label", ["binary_click", "regression_seconds"])
def test_a_pair_of_which_one_tells_nothing_without_the_other_is_chosen(rng, label, days):
    user, song, tab = (rng.integers(many, size=EVENTS) for many in (60, 25, 4))
    taste = rng.normal(size=(60, 25))[user, song]
    values = clicks(rng, 2 * taste) if label == "binary_click" else taste + rng.normal(size=EVENTS)
    assert crossed(
        days, categorical_tab=tab, categorical_user=user, categorical_song=song, **{label: values}
    ) == [{"user", "song"}]


@pytest.mark.parametrize("users", [60, 3000])
def test_a_pair_that_tells_no_more_than_its_ids_is_not_chosen(rng, users):
    user, song = rng.integers(users, size=EVENTS), rng.integers(25, size=EVENTS)
    logit = rng.normal(size=users)[user] + rng.normal(size=25)[song]
    assert not crossed(
        categorical_user=user,
        categorical_song=song,
        categorical_plan=user % 5,
        categorical_luck=rng.integers(8, size=EVENTS),
        binary_click=clicks(rng, logit),
    )


def test_a_pair_that_hardly_comes_back_is_not_chosen(rng):
    session, place = np.arange(EVENTS) // 4, rng.integers(25, size=EVENTS)
    click = clicks(rng, 2 * rng.normal(size=(EVENTS, 25))[session, place])
    assert not crossed(categorical_session=session, categorical_place=place, binary_click=click)


@pytest.mark.parametrize(
    ("told", "given", "role"),
    [
        ("tab", False, Role.REGRESSION),
        ("size", False, Role.REGRESSION),
        ("nothing", False, Role.UNUSED),
        ("nothing", True, Role.REGRESSION),
        ("rarely", True, Role.REGRESSION),
    ],
)
def test_a_measure_that_no_feature_tells_is_left_out_or_told(rng, told, given, role):
    tab, noise = rng.integers(6, size=EVENTS), rng.normal(size=EVENTS)
    size = np.where(rng.random(EVENTS) < 0.1, np.nan, rng.normal(size=EVENTS))
    seconds = {
        "tab": 0.3 * tab + noise,
        "size": np.nan_to_num(np.abs(size)) + noise,
        "nothing": noise,
        # Nearly all are the same, and the few others are too few to tell.
        "rarely": np.where(rng.random(EVENTS) < 0.003, noise, 0.0),
    }[told]
    table, guesses = guessed(
        {"categorical_tab": tab, "dense_size": size, "regression_seconds": seconds}
    )
    (found,) = [
        guess
        for guess in without_untold(table, guesses, ["seconds"] if given else [])
        if guess.field.name == "seconds"
    ]
    assert found.role is role
    assert ("no feature tells anything of it" in found.why) is (told in ("nothing", "rarely"))


def test_few_labels_that_no_feature_tells_stay(rng):
    stars = np.where(rng.random(EVENTS) < 0.1, rng.normal(size=EVENTS), np.nan)
    table, guesses = guessed(
        {"categorical_tab": rng.integers(6, size=EVENTS), "regression_stars": stars}
    )
    assert without_untold(table, guesses, []) == guesses


def numbered_ids(rng, label, **numbers):
    """Which of whole numbers, [events], are taken for ids in two days of half the events each."""
    table = {name: pa.chunked_array([pa.array(values)]) for name, values in numbers.items()}
    fields = {name: (Field(name, "int"), Role.DENSE) for name in table}
    table["label"] = pa.chunked_array([pa.array(label)])
    fields["label"] = (Field("label", "number"), Role.REGRESSION)
    guesses = [
        Guess(field, role, "", columns.describe(table[name]))
        for name, (field, role) in fields.items()
    ]
    days = pa.table(table)
    half = EVENTS // 2
    found = with_numbered_ids([days.slice(half), days.slice(0, half)], guesses)
    assert [guess.field.name for guess in found] == list(table)
    return [guess.field.name for guess in found if guess.role is Role.CATEGORICAL]


@pytest.mark.parametrize("popularity", [0.0, 1.0])
@pytest.mark.parametrize("values", [40, 400])
def test_whole_numbers_whose_neighbours_differ_are_ids(rng, popularity, values):
    weights = np.arange(1.0, values + 1) ** -popularity
    book = rng.choice(values, EVENTS, p=weights / weights.sum())
    pages = rng.integers(50, 50 + values, size=values)[book]
    label = rng.normal(size=values)[book] + 2 * rng.normal(size=EVENTS)
    # The book keeps its pages, which tell as much as the book but for those that share them.
    assert numbered_ids(rng, label, pages=pages, book=7 * book) == ["book"]


def test_without_a_label_whole_numbers_stay_amounts(rng):
    label = np.full(EVENTS, np.nan)
    label[:3] = 1.0
    assert numbered_ids(rng, label, amount=rng.integers(400, size=EVENTS)) == []


@pytest.mark.parametrize(
    "effect",
    [
        lambda amount: amount / 100,
        lambda amount: np.log1p(amount),
        lambda amount: 2.0 * (amount > 150),
        lambda amount: np.sin(amount / 30),
        lambda amount: 0.0 * amount,
        lambda amount: 2.0 * (amount == 0),
    ],
)
@pytest.mark.parametrize("heavy", [False, True])
def test_whole_numbers_that_tell_by_their_size_are_amounts(rng, effect, heavy):
    amount = rng.integers(400, size=EVENTS)
    if heavy:
        amount = (np.exp(6 * rng.random(EVENTS)) - 1).astype(int)
    label = effect(amount) + rng.normal(size=EVENTS)
    assert numbered_ids(rng, label, amount=amount) == []


@pytest.mark.parametrize("ids", [lambda n: n, lambda n: f"u{n}"])
def test_what_an_id_keeps_is_seen_in_columns_of_any_chunks(rng, ids):
    user = rng.integers(50, size=EVENTS)
    half, third = EVENTS // 2, EVENTS // 3
    names = np.array([ids(n) for n in user.tolist()])
    columns_of = {
        "user": pa.chunked_array([pa.array(part) for part in np.split(names, [half])]),
        "plan": pa.chunked_array([pa.array(part) for part in np.split(user % 3, [third])]),
        "luck": pa.chunked_array([pa.array(rng.integers(3, size=EVENTS))]),
    }
    day = pa.table(columns_of)
    assert columns.kept_by("user", "plan", [day, day])
    assert not columns.kept_by("user", "luck", [day, day.take(rng.permutation(EVENTS))])
