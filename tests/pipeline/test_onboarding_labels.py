"""Which fields `init` takes for labels, and which features would tell one."""

import re

import pytest
from onboarding_logs import flat, number_of, remark_on, role_of, why_of, write_logs

from pipeline.onboarding.draft import draft_spec
from pipeline.onboarding.guesses import Role
from schemas.errors import BadDataError
from schemas.loading import parse_spec


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("logs"))


@pytest.mark.parametrize("name", ["addedToCart", "is_upvoted", "hover", "accepted", "favourite"])
def test_a_flag_named_by_an_act_is_a_label(tmp_path, name):
    def acted(event):
        return {**event, name: int(int(event["request.ID"].partition("-")[2]) % 3 == 0)}

    draft = draft_spec(write_logs(tmp_path, change=acted), "ranker")
    assert role_of(draft, name) is Role.BINARY


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("yes", "no"), "a label is 0, 1 or a number, not text such as '"),
        (("Y", "N"), "a label is 0, 1 or a number, not text such as '"),
        ((1, -1), "it is -1 or 1: log 0 or 1"),
        ((1, None), "each label is 1; log 0 for the other events"),
        (("45%", "7%", "31.5%"), "a label is 0, 1 or a number, not text such as"),
        (("4/5", "1/5", "5/5", "2/5"), "a label is 0, 1 or a number, not text such as"),
        ((3, 0, 0, 1), "is it a label, for --label, or a feature, to be added?"),
    ],
)
def test_what_sounds_like_a_label_and_can_be_none_is_no_feature(tmp_path, suffix, values, message):
    def acted(event):
        return {**event, "upvoted": values[number_of(event) % len(values)]}

    draft = draft_spec(write_logs(tmp_path, suffix, flat, acted), "ranker")
    assert role_of(draft, "upvoted") is Role.UNUSED
    assert message in why_of(draft, "upvoted")


@pytest.mark.parametrize(
    ("names", "score", "weighed"),
    [
        (["skipped", "liked"], "1 - skipped", "1 - skipped + 2 * liked"),
        (["saved", "hidden", "reports"], "saved", "saved - 2 * hidden - 2 * reports"),
    ],
)
def test_an_act_that_nobody_wants_counts_against_what_is_shown(tmp_path, names, score, weighed):
    def acted(event):
        # The first is the most frequent.
        acts = {name: int(number_of(event) % (3 + n) == 0) for n, name in enumerate(names)}
        kept = {k: v for k, v in event.items() if k not in ("isClicked", "stars", "dwellTimeMs")}
        return {**kept, **acts}

    text = draft_spec(write_logs(tmp_path, change=acted), "ranker").text
    assert parse_spec(text, "drafted").serving.score == score
    assert f"# {weighed}\n" in text


@pytest.mark.parametrize(
    "name", ["timesPlayedBefore", "skips_so_far", "everPurchased", "previous_rating"]
)
def test_what_was_before_the_impression_is_no_label(tmp_path, name):
    def seen(event):
        return {
            **event,
            name: number_of(event) % 2 if name == "everPurchased" else 7 * event["item.Id"],
        }

    draft = draft_spec(write_logs(tmp_path, change=seen), "ranker")
    assert role_of(draft, name) in (Role.CATEGORICAL, Role.DENSE)
    assert not remark_on(draft, name) or name in ("skips_so_far", "everPurchased")


@pytest.mark.parametrize("absent", ["none", "\\N"])
def test_a_value_that_comes_with_a_label_alone_is_no_id_that_keeps_it(tmp_path, absent):
    def bought(event):
        bought = number_of(event) // 3 % 3 == 0
        coupon = f"c{number_of(event) % 50}" if bought else absent
        return {**event, "coupon": coupon, "bought": int(bought)}

    draft = draft_spec(write_logs(tmp_path, change=bought), "ranker")
    assert role_of(draft, "bought") is Role.BINARY
    assert "only where bought is 1" in why_of(draft, "coupon")


@pytest.mark.parametrize(
    ("refund", "expected"),
    [(0.0, "transform: log1p    # a heavy tail"), (-9.0, "# A heavy tail, and values below 0")],
)
def test_a_sum_of_money_that_is_nearly_always_zero_is_said_to_be_so(tmp_path, refund, expected):
    def paid(event):
        number = number_of(event)
        spent = 3.0 ** (number // 160) if number % 160 == 0 else 0.0
        return {**event, "revenue": refund if number == 7 else spent}

    draft = draft_spec(write_logs(tmp_path, change=paid), "ranker", labels=["isClicked", "revenue"])
    assert role_of(draft, "revenue") is Role.REGRESSION
    assert re.search(r"99\.[02]% of the values are 0: an act of its own?", why_of(draft, "revenue"))
    assert expected in draft.text
    assert parse_spec(draft.text, "drafted").tasks["revenue"].kind == "regression"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("name", "value", "role"),
    [
        ("stars", lambda e: e["item.Id"] % 4 + 1.5, Role.DENSE),
        ("views", lambda e: 1000 * e["item.Id"] + number_of(e), Role.DENSE),
        ("subscribed", lambda e: int(e["userId"][1:]) % 2, Role.CATEGORICAL),
        ("registered", lambda e: "yn"[int(e["userId"][1:]) % 2], Role.CATEGORICAL),
        ("rated", lambda e: number_of(e) % 4 + 1.5, Role.REGRESSION),
        ("purchased", lambda e: number_of(e) // 4 % 2, Role.BINARY),
    ],
)
def test_what_an_id_keeps_from_day_to_day_is_no_label(tmp_path, suffix, name, value, role):
    def described(event):
        # Four events each of a session, which no other day has.
        session = f"{event['request.ID'].partition('-')[0]}-{number_of(event) // 4}"
        values = {k: v for k, v in event.items() if k != "item.price"}
        return {**values, "session": session, name: value(event)}

    draft = draft_spec(write_logs(tmp_path, suffix, flat, described), "ranker")
    assert role_of(draft, name) is role
    kept = role in (Role.DENSE, Role.CATEGORICAL)
    assert ("ids keep its value from day to day" in remark_on(draft, name)) == kept


def test_the_time_of_an_act_is_no_measure_of_it(tmp_path):
    def acted(event):
        return {**event, "viewedAt": event["request.Timestamp"] if number_of(event) % 3 else None}

    draft = draft_spec(write_logs(tmp_path, change=acted), "ranker")
    assert "it holds times: log 0 or 1, or how long it took" in why_of(draft, "viewedAt")


def test_two_values_that_no_id_keeps_are_asked_about(tmp_path):
    def flagged(event):
        return {**event, "reachedEnd": number_of(event) // 3 % 2}

    draft = draft_spec(write_logs(tmp_path, change=flagged), "ranker")
    assert "if it tells what came of the impression" in remark_on(draft, "reachedEnd")
    assert not remark_on(draft, "isPremium")


@pytest.mark.parametrize(("name", "role"), [("revenueUsd", Role.BINARY), ("bonus", None)])
def test_a_flag_that_a_measure_comes_with_is_its_act(tmp_path, name, role):
    def flagged(event):
        flag = number_of(event) // 3 % 3 == 0
        amount = 1.5 + number_of(event) % 7 if flag else None
        return {**event, "bundle": int(flag), name: amount}

    draft = draft_spec(write_logs(tmp_path, change=flagged), "ranker")
    assert role_of(draft, "bundle") is (role or Role.CATEGORICAL)
    if role:
        assert f"bundle:    # {name} has a value of its own only where it is 1" in draft.text


@pytest.mark.parametrize("name", ["item.price.after", "balanceAfter"])
def test_a_state_after_the_impression_is_no_feature(tmp_path, name):
    def later(event):
        return {**event, name: float(number_of(event) % 50) + 0.5}

    draft = draft_spec(write_logs(tmp_path, shape=dict, change=later), "ranker")
    assert role_of(draft, name) is Role.UNUSED
    assert "'after' sounds like what is known only after the impression" in why_of(draft, name)


def test_a_status_is_asked_about(tmp_path):
    def later(event):
        return {**event, "listingStatus": ["live", "sold", "gone"][number_of(event) % 3]}

    draft = draft_spec(write_logs(tmp_path, change=later), "ranker")
    assert "is it as of the impression?" in remark_on(draft, "listingStatus")


@pytest.mark.parametrize("known", [True, False])
def test_a_price_may_tell_the_value_of_a_purchase(tmp_path, known):
    """Where it is known of what is not bought, too, and does not tell what is."""

    def sold(event):
        number = number_of(event)
        bought, price = number % 5 == 0, 1.5 + number * 7 % 90
        value = price * (1.0 + number % 3 / 100) if bought else None
        return {**event, "orderValue": value, "price": price if bought or known else 0.5}

    labels = ["isClicked", "orderValue"]
    draft = draft_spec(write_logs(tmp_path, change=sold), "ranker", labels=labels)
    if known:
        assert role_of(draft, "price") is Role.DENSE
        assert "fine if it is known before, as a price is" in remark_on(draft, "price")
    else:
        assert role_of(draft, "price") is Role.UNUSED


def test_a_trace_of_a_measure_is_no_feature(tmp_path):
    def measured(event):
        seconds = event["dwellTimeMs"] / 1000
        return {**event, "progress": f"p{int(seconds)}", "elapsed": seconds + number_of(event) % 3}

    draft = draft_spec(write_logs(tmp_path, change=measured), "ranker", labels=["dwellTimeMs"])
    assert "only where dwellTimeMs is above its median" in why_of(draft, "progress")
    assert "tells dwellTimeMs on its own (AUC" in why_of(draft, "elapsed")


def test_why_no_field_can_be_a_label_is_told(tmp_path):
    def acted(event):
        kept = {k: v for k, v in event.items() if k in ("request.ID", "userId", "item.Id")}
        return {**kept, "liked": "yn"[number_of(event) % 2], "y": number_of(event) % 2}

    with pytest.raises(BadDataError) as told:
        draft_spec(write_logs(tmp_path, change=acted), "ranker")
    assert re.search(r"liked \(.*, but a label is 0, 1 or a number, not text", str(told.value))
    assert re.search(r"y \(two values, and no id keeps one .* by --label", str(told.value))


def test_a_list_of_labels_is_none_and_a_list_of_what_was_clicked_is_asked_about(tmp_path):
    def listed(event):
        return {**event, "liked": [0, 1, 0], "clickedTopics": event["item.Topics"]}

    draft = draft_spec(write_logs(tmp_path, change=listed), "ranker")
    assert "not a list: log an event for each impression" in why_of(draft, "liked")
    assert role_of(draft, "clickedTopics") is Role.CATEGORICAL
    assert "leave it out, unless it tells of those before" in remark_on(draft, "clickedTopics")


def test_labels_that_are_given_are_the_only_ones_and_acts_are_no_features(logs):
    draft = draft_spec(logs, "ranker", labels=["isPremium", "stars"])
    assert set(parse_spec(draft.text, "draft").tasks) == {"premium", "stars"}
    for source in ("isClicked", "dwellTimeMs"):
        (guess,) = [guess for guess in draft.guesses if guess.field.source == source]
        assert guess.role is Role.UNUSED
        assert "known only after the impression" in guess.why


def test_a_number_that_tells_a_label_all_alone_is_no_feature(tmp_path):
    def renamed(event):
        return {"elapsed" if k == "dwellTimeMs" else k: v for k, v in event.items()}

    draft = draft_spec(write_logs(tmp_path, change=renamed), "ranker")
    (guess,) = [guess for guess in draft.guesses if guess.field.source == "elapsed"]
    assert guess.role is Role.UNUSED
    assert "tells isClicked on its own (AUC 1.000): known only after the impression?" in draft.text


@pytest.mark.parametrize("absent", [None, 0, 7.5])
@pytest.mark.parametrize("share", [1, 5])
def test_a_value_that_is_there_with_a_label_alone_is_no_feature(tmp_path, absent, share):
    def later(event):
        number = int(event["request.ID"].partition("-")[2])
        there = number % 3 == 0 and number % share == 0
        acted = {"booked": int(number % 3 == 0), "lag": number + 0.5 if there else absent}
        return {**event, **acted, "gap": number + 0.5 if number % 4 == 0 else absent}

    draft = draft_spec(write_logs(tmp_path, change=later), "ranker")
    assert role_of(draft, "lag") is Role.UNUSED
    assert "has a value of its own only where booked is 1" in draft.text
    assert role_of(draft, "gap") is Role.DENSE
