"""Say who really took part in a run, in one honest sentence and in a table of who did not and why."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faelles.card import Bilingual
from server.formats import epsilon, ranges
from server.result import EvaluationRecord, Result, RoundRecord, RunRecord

LOST = ("refused", "rejected", "late", "silent", "missing")  # how a reply may not count
HEADS = {
    "completed": Bilingual(da="Gennemført", en="Completed"),
    "incomplete": Bilingual(da="Ikke gennemført", en="Incomplete"),
    "stopped": Bilingual(da="Stoppet", en="Stopped"),
    "running": Bilingual(da="Ikke afsluttet", en="Not finished"),
}


@dataclass(frozen=True, kw_only=True)
class Noun:
    """Name those who take part."""

    en: tuple[str, str]  # one, many
    da: tuple[str, str]


MUNICIPALITY = Noun(en=("municipality", "municipalities"), da=("kommune", "kommuner"))
SITE = Noun(en=("site", "sites"), da=("deltager", "deltagere"))


@dataclass(frozen=True, kw_only=True)
class Absence:
    """Hold those who, for one reason, did not contribute at the same times."""

    when: str
    what: str
    reason: str
    names: tuple[str, ...]


def status(run: RunRecord, noun: Noun) -> Bilingual:
    """Say in one sentence, in each language, how the run went and who took part."""
    out, taking = len(run.sits_out), len(run.expected) - len(run.sits_out)
    heads = HEADS[run.status]
    expected = _many(len(run.expected), noun.en)
    english = f"of {expected} expected, {taking} {_be(taking)} part and {out} {_sit(out)} out"
    danish = f"af {_many(len(run.expected), noun.da, 'ventet ', 'ventede ')} deltager {taking}, og {out} står udenfor"
    if not out:
        english, danish = (
            f"{expected} expected, none sits out",
            f"{_many(len(run.expected), noun.da)} ventet, ingen står udenfor",
        )
    return Bilingual(
        en=f"{heads.en}: {english}; {_contributed_en(run, taking)}{_lost(run, _LOST_EN)}.",
        da=f"{heads.da}: {danish}; {_contributed_da(run, taking)}{_lost(run, _LOST_DA)}.",
    )


def about_release(result: Result, noun: Noun) -> Bilingual:
    """Say, in each language, what a live federation released about its model's quality, and how sure that is."""
    released, own = result.run.evaluation, result.privacy.evaluation_epsilon
    if released is None or not released.contributing:
        return _UNRELEASED["came" if released else "yet" if result.run.status == "running" else "none"]
    count = len(released.contributing)
    if own is None:
        return Bilingual(
            en=f"Without noise: the score histograms of {_many(count, noun.en)}, summed.",
            da=f"Uden støj: scorehistogrammer fra {_many(count, noun.da)}, lagt sammen.",
        )
    bound = epsilon(own)
    return Bilingual(
        en=f"A noisy release. The held-out part was scored at home; noise was added to the score histogram in each of"
        f" {_many(count, noun.en)} before it left, and the figures are those of the sum. The release has an ε of its"
        f" own, at most {bound}. Nobody knows the exact figures, and these are the less certain the fewer take part.",
        da=f"En frigivelse med støj. Den del, der er holdt uden for træningen, blev scoret hjemme; i hver af"
        f" {_many(count, noun.da)} blev der lagt støj på scorehistogrammet, før det forlod kommunen, og tallene er"
        f" summens. Frigivelsen har sit eget ε på højst {bound.replace('.', ',')}. Ingen kender de præcise tal, og jo"
        f" færre der deltager, desto mere usikre er disse.",
    )


_UNRELEASED = {
    "came": Bilingual(
        en="No municipality's score histogram came, so nothing was released.",
        da="Ingen kommunes scorehistogram kom, så intet blev frigivet.",
    ),
    "yet": Bilingual(en="No evaluation has been released yet.", da="Ingen evaluering er frigivet endnu."),
    "none": Bilingual(en="No evaluation was released.", da="Ingen evaluering blev frigivet."),
}


def absences(run: RunRecord, name_of: Callable[[str], str]) -> list[Absence]:
    """List who did not contribute, and why: first those outside the whole run."""
    table = [("whole run", "sits out", reason, key) for key, reason in run.sits_out.items()]
    rounds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for one in run.rounds:
        for what, reason, key in _lost_of(one, one.late):
            rounds[what, reason, key].append(one.number)
    for (what, reason, key), numbers in rounds.items():
        table.append((("round " if len(numbers) == 1 else "rounds ") + ranges(numbers), what, reason, key))
    if run.evaluation is not None:
        table += [("evaluation", what, reason, key) for what, reason, key in _lost_of(run.evaluation)]
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for when, what, reason, key in table:
        groups[when, what, reason].append(name_of(key))
    return [
        Absence(when=when, what=what, reason=reason, names=tuple(sorted(names)))
        for (when, what, reason), names in groups.items()
    ]


def _lost_of(record: RoundRecord | EvaluationRecord, late: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """List what was wrong, why, and with whom; whose reply came after all is neither silent nor missing."""
    found = [("refused", reason, key) for key, reason in record.refused.items()]
    found += [("reply rejected", reason, key) for key, reason in record.rejected.items()]
    found += [("late", "the reply came after the deadline and was dropped", key) for key in late]
    found += [("silent", "no reply before the deadline", key) for key in record.silent if key not in late]
    return found + [("missing", "not connected at the deadline", key) for key in record.missing if key not in late]


def _contributed_en(run: RunRecord, taking: int) -> str:
    if not run.rounds:
        return "no round is recorded"
    low, high = _extremes(run)
    who = (
        _all(taking, "it", "all") if low == high == taking else f"{low}" if low == high else f"between {low} and {high}"
    )
    each = "the only round" if len(run.rounds) == 1 else f"each of the {len(run.rounds)} rounds"
    each += " so far" if run.status == "running" else ""
    return f"{who} contributed to {each} (quorum {run.needed})"


def _contributed_da(run: RunRecord, taking: int) -> str:
    if not run.rounds:
        return "ingen runde er registreret"
    low, high = _extremes(run)
    who = (
        _all(taking, "den", "alle") if low == high == taking else f"{low}" if low == high else f"mellem {low} og {high}"
    )
    each = "den eneste runde" if len(run.rounds) == 1 else f"hver af de {len(run.rounds)} runder"
    each += " indtil nu" if run.status == "running" else ""
    return f"{who} bidrog til {each} (quorum {run.needed})"


def _extremes(run: RunRecord) -> tuple[int, int]:
    counts = [len(one.contributing) for one in run.rounds]
    return min(counts), max(counts)


_LOST_EN = (("refused", "answer refused", "answers refused"), ("rejected", "reply rejected", "replies rejected"),
            ("late", "reply came late", "replies came late"),
            ("silent", "reply never came", "replies never came"),
            ("missing", "time not connected", "times not connected"))  # fmt: skip
_LOST_DA = (("refused", "afvisning", "afvisninger"), ("rejected", "kasseret svar", "kasserede svar"),
            ("late", "forsinket svar", "forsinkede svar"),
            ("silent", "udeblevet svar", "udeblevne svar"),
            ("missing", "gang ikke forbundet", "gange ikke forbundet"))  # fmt: skip


def _lost(run: RunRecord, words: tuple[tuple[str, str, str], ...]) -> str:
    """Count the replies that do not count, over all rounds."""
    found = []
    for kind, one, many in words:
        count = sum(replies_lost(record, kind) for record in run.rounds)
        if count:
            found.append(f"{count} {one if count == 1 else many}")
    return "; " + ", ".join(found) if found else ""


def replies_lost(record: RoundRecord, kind: str) -> int:
    """Count those of a round who were refused, rejected, late, silent or missing, each once."""
    names = set(getattr(record, kind))
    return len(names - set(record.late) if kind in ("silent", "missing") else names)


def _many(count: int, words: tuple[str, str], before_one: str = "", before_many: str = "") -> str:
    return f"{count} {before_one}{words[0]}" if count == 1 else f"{count} {before_many}{words[1]}"


def _all(count: int, one: str, many: str) -> str:
    return one if count == 1 else f"{many} {count}"


def _be(count: int) -> str:
    return "takes" if count == 1 else "take"


def _sit(count: int) -> str:
    return "sits" if count == 1 else "sit"
