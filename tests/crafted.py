"""What a hostile coordinator can make of what it knows: messages that no honest one would send.

Every function gives drafts of one kind of nonsense or malice. They rest on the card, the declared size and the heads
that a municipality signed, and on nothing that a coordinator would not have.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client.keys import Signer
from faelles.card import UseCaseCard
from faelles.models import MAX_MAGNITUDE, initial_parameters, shared_shapes
from faelles.records import (
    ARRAYS,
    CARD,
    CONFIG,
    FEDERATION,
    LEDGER_HEAD,
    MODEL_SHA256,
    PLAN,
    SCHEMA,
    SCHEMA_VERSION,
    SERVER_ROUND,
    TERMS,
    Kind,
    model_sha256,
)
from faelles.terms import RunTerms

HUGE = 1_000_000  # letters or numbers: more than any honest message has, and still a small test
DEEP = "[" * 100_000
ABOVE = float(np.nextafter(np.float32(MAX_MAGNITUDE), np.float32(np.inf)))
NPY = b"\x93NUMPY\x01\x00v\x00"
Fields = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Hold a message before it is addressed; `spoil` does to its records what no contract foresees."""

    kind: str
    config: Fields
    arrays: Fields = field(default_factory=dict)
    spoil: Callable[[RecordDict], object] | None = None

    def message(self, node_id: int) -> Message:
        """Address it."""
        arrays = {name: one if isinstance(one, Array) else Array(one) for name, one in self.arrays.items()}
        content = RecordDict({ARRAYS: ArrayRecord(arrays), CONFIG: ConfigRecord(dict(self.config))})
        if self.spoil:
            self.spoil(content)
        return Message(content, node_id, self.kind)

    def but(self, **changes: Any) -> "Draft":
        """Change some of its config, by key with _ for -."""
        return replace(self, config={**self.config, **{key.replace("_", "-"): one for key, one in changes.items()}})


@dataclass(frozen=True, kw_only=True)
class Known:
    """Hold what the coordinator knows: the card, what the municipality declared, and every head it signed.

    `others` are federations of the coordinator's invention; `foreign` is a head that another municipality signed.
    """

    card: UseCaseCard
    declared_size: int
    federation: str
    others: tuple[str, ...]
    foreign: str
    heads: list[str] = field(default_factory=list)

    @property
    def earliest(self) -> str:
        return self.heads[0] if self.heads else self.foreign

    @property
    def latest(self) -> str:
        return self.heads[-1] if self.heads else self.foreign

    def draft(self, kind: str, server_round: int, extra: Fields | None = None, arrays: Fields | None = None) -> Draft:
        """Draft a message that keeps the contract."""
        common = {SCHEMA: SCHEMA_VERSION, FEDERATION: self.federation, SERVER_ROUND: server_round}
        return Draft(kind=kind, config={**common, CARD: self.card.sha256, **(extra or {})}, arrays=arrays or {})

    def ready(self, terms: str | None = None) -> Draft:
        return self.draft(Kind.READY, 0, {TERMS: RunTerms.of(self.card).model_dump_json() if terms is None else terms})

    def train(self, server_round: int, arrays: Fields | None = None, plan: Fields | None = None) -> Draft:
        extra = {PLAN: json.dumps(plan or self.plan())}
        return self.draft(Kind.TRAIN, server_round, extra, self.start() if arrays is None else arrays)

    def evaluate(self, server_round: int = 3, arrays: Fields | None = None) -> Draft:
        return self.draft(Kind.EVALUATE, server_round, None, self.start() if arrays is None else arrays)

    def final(self, arrays: Fields | None = None) -> Draft:
        model = self.start() if arrays is None else arrays
        return self.draft(Kind.FINAL, 3, {MODEL_SHA256: model_sha256(dict(model))}, model)

    def close(self) -> Draft:
        return self.draft(Kind.CLOSE, 3)

    def everything(self) -> Iterator[Draft]:
        """Ask for all there is."""
        yield from (self.train(number) for number in (1, 2, 3))
        yield from (self.evaluate(), self.ready(), self.ready().but(federation=self.others[0]))
        yield from (self.final(), self.close())

    def start(self) -> dict[str, Any]:
        return {name: array.copy() for name, array in self._shared.items()}

    @cached_property
    def _shared(self) -> dict[str, Any]:
        start = initial_parameters(self.card)
        return {name: start[name] for name in shared_shapes(self.card)}

    def filled(self, value: float) -> dict[str, Any]:
        """Fill every shared parameter with one number."""
        return {name: np.full_like(array, value) for name, array in self.start().items()}

    def spotted(self, value: float) -> dict[str, Any]:
        """Put one number among good ones."""
        arrays = self.start()
        next(iter(arrays.values())).flat[0] = value
        return arrays

    def plan(self, terms: str | None = None) -> dict[str, Any]:
        run = RunTerms.of(self.card) if terms is None else RunTerms.parse(terms)
        return asdict(run.plan(self.card, self.declared_size))


# Weights


def absurd_weights(known: Known) -> Iterator[Draft]:
    for value in (np.nan, np.inf, -np.inf, 1e30, -3.4e38, ABOVE):
        for arrays in (known.filled(value), known.spotted(value)):
            yield from (known.train(2, arrays), known.evaluate(arrays=arrays), known.final(arrays))


def extreme_weights(known: Known) -> Iterator[Draft]:
    yield known.train(2, known.filled(MAX_MAGNITUDE))
    yield known.train(3, known.filled(-MAX_MAGNITUDE))
    yield known.evaluate(arrays=known.filled(MAX_MAGNITUDE))


def tiny_weights(known: Known) -> Iterator[Draft]:
    yield known.train(2, known.filled(1e-45))
    yield known.train(3, known.filled(-0.0))
    yield known.evaluate(arrays=known.spotted(-MAX_MAGNITUDE))


def spotlights(known: Known) -> Iterator[Draft]:
    """Saturate everybody but whoever has no age, then whoever has an undeclared brand: what moves tells of them.

    The card's inputs are age (value, missing) and brand (two values, missing).
    """
    for number, lit in ((2, 1), (3, 4)):
        weight = np.full((1, 5), -MAX_MAGNITUDE, np.float32)
        weight[0, lit] = MAX_MAGNITUDE if lit == 1 else 0
        arrays = {**known.start(), "output.weight": weight}
        yield known.train(number, arrays)
    yield known.evaluate(arrays=arrays)


def absurd_pulls(known: Known) -> Iterator[Draft]:
    for mu in (100.0, -1.0, -1e-300, 1e308, np.nan, np.inf, "0", "nan", True, [1.0], b"1"):
        yield from (known.train(2, arrays).but(proximal_mu=mu) for arrays in (None, known.filled(MAX_MAGNITUDE)))


def strong_pulls(known: Known) -> Iterator[Draft]:
    yield known.train(2, known.filled(MAX_MAGNITUDE)).but(proximal_mu=99.99)
    yield known.train(3, known.filled(-MAX_MAGNITUDE)).but(proximal_mu=5e-324)


def misshapen_arrays(known: Known) -> Iterator[Draft]:
    ((name, array),) = known.start().items()
    wide = np.zeros((1, HUGE), np.float32)
    for one in (array.T, array[0], array[:, :-1], wide, np.zeros((0, 5), np.float32), np.array(1, np.float32)):
        yield known.train(2, {name: one})
    for kind in (">f4", "f8", "f2", "i4", "c8", "b1", "S4", "U4", "M8[s]", [("cpr", "f4")]):
        yield known.train(2, {name: np.zeros(array.shape, kind)})
    for names in ((), (name.upper(),), (name, "output.bias"), ("more", name), ("x" * 10_000,), ("a\0b\n", name)):
        arrays = dict.fromkeys(names, array)
        yield from (known.train(2, arrays), known.evaluate(arrays=arrays), known.final(arrays))
    yield known.train(2, {f"{name}.{number}": array for number in range(500)})


def unreadable_arrays(known: Known) -> Iterator[Draft]:
    ((name, array),) = known.start().items()
    whole = Array(array).data
    header = "{'descr': '%s', 'fortran_order': False, 'shape': (%d,), }"
    pickled, endless = (NPY + (header % one).encode().ljust(117) + b"\n" for one in (("|O", 1), ("<f4", 2**50)))
    attack = pickled + b"cos\nsystem\n(S'true'\ntR."
    for data in (b"", b"no array", whole[:-1], whole[:40], attack, endless, b"PK\x03\x04" + whole):
        for shape, stype in ((array.shape, "numpy.ndarray"), ((2**31 - 1,), "numpy.ndarray"), (array.shape, "pickle")):
            yield known.train(2, {name: Array(dtype="float32", shape=shape, stype=stype, data=data)})


# Cards, plans and terms


def changed_cards(known: Known) -> Iterator[Draft]:
    """Change one field of the card after the other, and ask on its hash."""
    whole = known.card.model_dump(mode="json")
    for place, value in _places(whole):
        fields = json.loads(json.dumps(whole))
        part = fields
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = _another(value)
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        yield from (draft.but(card_sha256=digest) for draft in (known.ready(), known.train(1)))


def unknown_cards(known: Known) -> Iterator[Draft]:
    for digest in ("0" * 64, hashlib.sha256(b"a card").hexdigest()):
        yield from (draft.but(card_sha256=digest) for draft in known.everything())


def misspelled_cards(known: Known) -> Iterator[Draft]:
    own = known.card.sha256
    for digest in (
        own.upper(),
        own + "0",
        own[:-1],
        f" {own}",
        f"{own}\n",
        "",
        "' OR 1=1 --",
        "../policy.yaml",
        0,
        b"0",
    ):
        yield from (draft.but(card_sha256=digest) for draft in (known.ready(), known.train(1)))


def other_plans(known: Known) -> Iterator[Draft]:
    """Offer plans that are weaker than the approved one, or stronger, in every field."""
    plan = known.plan()
    sigma = plan["noise_multiplier"]
    others: dict[str, tuple[Any, ...]] = {
        "noise_multiplier": (0.0, sigma / 2, float(np.nextafter(sigma, 0)), sigma * 2),
        "clipping_norm": (1e6, 2.0, 0.5, 1e-300), "delta": (0.1, 1e-12), "declared_size": (1, 25, 1_000_000),
        "batch_size": (1, 50, 1_000_000), "rounds": (1, 4, 10_000), "local_steps": (1, 3, 10_000), "unit": ("row",),
    }  # fmt: skip
    for name, values in others.items():
        yield from (known.train(2).but(plan=json.dumps({**plan, name: value})) for value in values)


def broken_plans(known: Known) -> Iterator[Draft]:
    plan = known.plan()
    broken: dict[str, tuple[Any, ...]] = {
        "noise_multiplier": (-1.0, "0", None, True, 1e308, np.nan), "clipping_norm": (0.0, -1.0), "delta": (0.0, 1.0),
        "declared_size": (0, -5, 2.0), "batch_size": (0,), "rounds": (0, -1, 2**70), "local_steps": (0, True),
        "unit": ("", "x" * 65, 5), "noise": ("", "central"),
    }  # fmt: skip
    for name, values in broken.items():
        yield from (known.train(2).but(plan=json.dumps({**plan, name: value})) for value in values)
        yield known.train(2).but(plan=json.dumps({key: value for key, value in plan.items() if key != name}))
    twice = json.dumps(plan)[:-1] + ', "noise_multiplier": 0.0}'
    for text in ("", "{}", "null", "[]", "NaN", twice, DEEP, "9" * HUGE, "x" * HUGE, json.dumps({**plan, "more": 1})):
        yield known.train(2).but(plan=text)
    yield from (known.train(2).but(plan=value) for value in (5, 2.5, b"{}", [1], True))
    yield known.draft(Kind.TRAIN, 2, None, known.start())


def looser_terms(known: Known) -> Iterator[Draft]:
    for epsilon in ("2.0000001", "2.5", "1e308", "Infinity", "1e400", '"inf"', '"Infinity"'):
        yield known.ready(f'{{"epsilon":{epsilon},"rounds":3}}')
        yield known.ready(f'{{"epsilon":{epsilon},"rounds":1,"evaluate":false}}')
    for rounds in (4, 10_000, 2**31, 2**63, 10**300):
        yield known.ready(f'{{"epsilon":2.0,"rounds":{rounds}}}')


def broken_terms(known: Known) -> Iterator[Draft]:
    for text in ("NaN", "-1", "0", "null", '"x"', "[1]", "-Infinity"):
        yield known.ready(f'{{"epsilon":{text},"rounds":3}}')
    yield from (known.ready(f'{{"epsilon":2,"rounds":{text}}}') for text in ("0", "-1", "2.5", '"x"', "null", "[]"))
    for value in (
        "",
        "{}",
        "[]",
        '{"epsilon":2}',
        '{"epsilon":2,"rounds":3,"delta":1}',
        DEEP,
        "x" * HUGE,
        2,
        b"{}",
        [2.0],
    ):
        yield known.ready().but(terms=value)
    yield known.draft(Kind.READY, 0)


def tightest_terms(known: Known) -> Iterator[Draft]:
    """Ask for noise beyond all measure."""
    terms = '{"epsilon":1e-300,"rounds":2}'
    yield known.ready(terms)
    yield from (known.train(number, plan=known.plan(terms)) for number in (1, 2))
    yield known.evaluate(2)


def endless_terms(known: Known) -> Iterator[Draft]:
    """Hide letters in terms that are right: the municipality would keep them for good."""
    for blanks in (1_000, HUGE):
        yield known.ready(known.ready().config[TERMS].replace(",", "," + " " * blanks))


# Messages that are none


def unknown_kinds(known: Known) -> Iterator[Draft]:
    kinds = (
        "query",
        "query.read_all",
        "query.model",
        "query.READY",
        "train.more",
        "evaluate.all",
        "query.ready_",
        "query.æ",
    )
    for kind in (*kinds, "query." + "x" * 10_000):
        yield from (replace(draft, kind=kind) for draft in (known.ready(), known.train(2), known.close()))


def spoiled_records(known: Known) -> Iterator[Draft]:
    def put(record: str, value: Any) -> Callable[[RecordDict], object]:
        return lambda content: content.__setitem__(record, value)

    spoils: list[Callable[[RecordDict], object]] = [
        lambda content: content.pop(ARRAYS),
        lambda content: content.pop(CONFIG),
    ]
    for record in (ARRAYS, CONFIG, "more", "", "x" * 10_000):
        spoils += [put(record, MetricRecord({SCHEMA: 1})), put(record, ConfigRecord())]
    spoils += [put(CONFIG, ArrayRecord()), put("more", ArrayRecord())]
    for spoil in spoils:
        yield from (replace(draft, spoil=spoil) for draft in (known.ready(), known.train(2)))


def misspelled_config(known: Known) -> Iterator[Draft]:
    own = known.federation
    values: dict[str, Iterable[Any]] = {
        SCHEMA: (0, SCHEMA_VERSION + 1, -1, "1", True, 1.0, 2**63 - 1),
        FEDERATION: (own.upper(), f"{{{own}}}", own + "\n", "", "x" * HUGE, "'; DROP TABLE ledger --", 5, b"x", ["x"]),
        SERVER_ROUND: (-1, 2**31, 2**63 - 1, -(2**63), "2", 2.0, True, [2], b"2"),
        "run-as": ("root",), "x" * 10_000: (1,), "cpr\0": (1,), "": ("",),
        TERMS: ([1.0], b"x"), LEDGER_HEAD: ([1], True),
    }  # fmt: skip
    for key, several in values.items():
        for draft in (known.train(2), known.close()):
            yield from (replace(draft, config={**draft.config, key: value}) for value in several)


def heads_it_never_signed(known: Known) -> Iterator[Draft]:
    own = json.loads(known.latest)
    signed = b"faelles ledger head\n" + json.dumps([own["number"], own["hash"], own["accounts"]]).encode()
    forged = Signer.from_seed(b"a coordinator".zfill(32)).sign(signed)
    changes: tuple[Fields, ...] = (
        {"number": own["number"] + 1}, {"number": -1}, {"number": 0}, {"number": str(own["number"])}, {"number": 2**70},
        {"hash": "0" * 64}, {"accounts": ""}, {"signature": forged}, {"signature": ""}, {"signature": None},
    )  # fmt: skip
    texts = [json.dumps({**own, **change}) for change in changes]
    texts += [json.dumps({**own, "more": "x"}, sort_keys=True, separators=(",", ":")), known.latest + " " * HUGE]
    texts += [known.foreign, "", "{}", "[]", "null", '{"number":0}', "x", DEEP, "9" * HUGE, "x" * HUGE]
    for text in (*texts, 5, 2.5):
        drafts = (known.ready(), known.train(1), known.train(2), known.evaluate())
        yield from (draft.but(ledger_head=text) for draft in drafts)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Name every field of a card, and every part that holds some."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key), one
        yield from _places(one, (*place, key))


def _another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2 + 1
    return (
        {**value, "more": 1} if isinstance(value, dict) else [*value, "x"] if isinstance(value, list) else f"{value}x"
    )
