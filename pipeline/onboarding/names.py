"""What the name of a field says it is for, in words that logs use."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.onboarding.columns import Column

_CASES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")
_TEXTS = {
    # What users do once an impression is shown.
    "acts": "accept accepted add added answered applied apply booked bookmark bookmarked bought "
    "buy called cart checkout claimed click clicked comment commented complete completed "
    "contact contacted conversion convert converted donate donated downloaded engaged "
    "engagement enquired enquiry enrolled enter expand expanded favorite favorited "
    "favourite favourited finish finished follow followed forward forwarded hover hovered "
    "inquired inquiry install installed invited joined label like liked matched messaged "
    "opened order ordered paid purchase purchased react reacted redeemed register "
    "registered replied reply repost reposted requested reserved retweet retweeted "
    "returned save saved share shared signup solved subscribe subscribed swiped target "
    "transaction upvote upvoted view viewed visited vote voted watched wishlist",
    # Those that nobody wants more of.
    "unwanted": "bounce bounced cancel canceled cancelled churn churned complained complaint "
    "decline declined dislike disliked dismiss dismissed downvote downvoted hate hidden hide mute "
    "muted refunded rejected report reported skip skipped unfollow unfollowed uninstall "
    "uninstalled unsubscribe unsubscribed",
    # What of it is measured.
    "measures": "completion dwell label listen listened play played rated rating read reward "
    "revenue scroll scrolled spend spent stars stay view viewed viewing watch watched",
    # What makes a summary of the past, or a property, of it.
    "summaries": "author avg average before count counts degree earlier ever fans far history "
    "item last lifetime mean median num number past previous previously prior range rate "
    "rates recent since size total type user",
    "codes": "app brand bucket category channel city class code country device dow gender genre "
    "hour id ids kind lang language level month onehot os page placement platform region segment "
    "slot surface tab tier topic type weekday zip",
    # Who and what: numbers of them are names, where the word stands at the end.
    "entities": "account ad advertiser adset album article artist asin author campaign collection "
    "community company course creative creator customer document driver episode flight game gender "
    "genre hotel item job lesson listener listing member merchant movie offer partner playlist "
    "podcast post posting product profile property publisher query question reader recipe "
    "restaurant rider route seller session shop show sku song store student subscriber thread "
    "track user vehicle video viewer visitor",
    "surfaces": "app channel country device os page placement platform surface tab",
    # What moves on with what came of the impression, if it is joined later.
    "states": "outcome result status",
    "now": "current daily day far session today",
    "times": "at date datetime day dt time timestamp ts",
}
WORDS = {what: frozenset(text.split()) for what, text in _TEXTS.items()}
_ACTS = WORDS["acts"] | WORDS["unwanted"]
_EVENT_IDS = ("event", "impression", "request", "record", "log", "row", "uuid", "guid", "key")
_AFTER = "after"
NO_EVENT_ID = len(_EVENT_IDS) + 1


def words(name: str) -> list[str]:
    """The lower-case words of a name: `isClicked`, `is_clicked` and `Is-Clicked` have the same."""
    return [word.lower() for word in _CASES.split(name) if word]


def event_id_rank(name: str) -> int:
    """How much a name sounds like that of an event's id: 0 most, `NO_EVENT_ID` not at all."""
    said = words(name)
    ranks = [rank for rank, word in enumerate(_EVENT_IDS) if word in said]
    return min(ranks, default=NO_EVENT_ID - ("id" in said))


def sound_of(name: str) -> str:
    """The word of a name that sounds like what came of an impression; empty if none does."""
    said = words(name)
    if said[-1:] == [_AFTER]:
        return _AFTER
    if WORDS["summaries"].union(["id"]).intersection(said):
        return ""
    said += [word.removesuffix("s") for word in said]
    return min((_ACTS | WORDS["measures"]).intersection(said), default="")


def is_unwanted(name: str) -> bool:
    """Whether a name is that of an act of which nobody wants more, such as a skip."""
    return any({word, word.removesuffix("s")} & WORDS["unwanted"] for word in words(name))


def counts_today(name: str) -> bool:
    """Whether a name is that of acts that are still being counted as the impression is shown."""
    said = set(words(name))
    stems = said.union(word.removesuffix("s") for word in said)
    return bool(_ACTS & stems) and bool(WORDS["now"] & said)


def is_code(name: str) -> bool:
    """Whether whole numbers of this name are names of something, and no amounts."""
    said = words(name)
    by_name = WORDS["codes"].intersection(said) or {"day", "week"} <= set(said)
    return bool(by_name or WORDS["entities"].intersection(said[-1:]))


def is_place(name: str) -> bool:
    """Whether a name is that of a place in a list of candidates."""
    return bool({"position", "pos", "rank"}.intersection(words(name)[-1:]))


def is_time(said: Sequence[str], column: Column) -> bool:
    """Seconds since 1970, or thousandths and so on of them, or dates written as 20260131."""
    middle = column.quantile(0.5)
    since_1970 = any(1e9 * unit < middle < 4e9 * unit for unit in (1, 1e3, 1e6, 1e9))
    as_date = column.quantile(0) >= 19_000_101 and column.quantile(1) <= 21_001_231
    return bool(set(said) & WORDS["times"]) and (since_1970 or as_date)
