"""Make the work that simulators are compared on: municipalities of real sizes, a card, and rows that cost nothing.

Legend: S municipalities, N rows, F encoded features.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faelles.card import UseCaseCard, parse_card
from faelles.features import Citizens
from faelles.municipalities import MUNICIPALITIES
from faelles.privacy.plan import declared_band

NUMBERS = 15  # each encodes to its value and its missing flag
FEATURES = 2 * NUMBERS
HIDDEN = (64, 32)
LEARNING_RATE = 0.5


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Hold one case: a citizen is a row, and a round is one local epoch.

    Args:
        name: What the table calls it.
        sites: Municipalities; 98 have the sizes of Denmark's, others all the same.
        rows: Training rows of all of them.
        batch_size: Expected citizens of a step.
        hidden: Widths of the mlp; none for logistic regression.
        private: Train with differential privacy, or without clipping and noise.
    """

    name: str
    sites: int
    rows: int
    batch_size: int = 64
    hidden: tuple[int, ...] = HIDDEN
    private: bool = True

    @property
    def sizes_S(self) -> NDArray[np.int64]:
        """Deal the rows out."""
        share_S = np.array([one.population for one in MUNICIPALITIES] if self.sites == 98 else [1] * self.sites)
        edges = np.round(np.cumsum(share_S) / share_S.sum() * self.rows).astype(np.int64)
        return np.asarray(np.diff(edges, prepend=0))

    @property
    def steps_S(self) -> NDArray[np.int64]:
        """Count the steps of a round as a plan does: one epoch of the declared size."""
        return np.array([-(-declared_band(int(size)) // self.batch_size) for size in self.sizes_S])

    @property
    def citizens_a_round(self) -> int:
        """Count the citizens that a round takes on average, over all municipalities and steps."""
        bands = [declared_band(int(size)) for size in self.sizes_S]
        rates = [min(1.0, self.batch_size / band) for band in bands]
        pairs = zip(self.sizes_S, rates, self.steps_S, strict=True)
        return round(sum(float(size * rate * steps) for size, rate, steps in pairs))

    def citizens(self, site: int) -> Citizens:
        """Make one municipality's training citizens, encoded: F columns, half of them flags that are 0."""
        value_NF, y_N = self._drawn(site)
        x_NF = np.zeros((len(y_N), FEATURES), dtype=np.float32)
        x_NF[:, ::2] = value_NF
        return Citizens(x_BRF=x_NF[:, None], y_BR=y_N[:, None], mask_BR=np.ones((len(y_N), 1), dtype=bool))

    def table(self, site: int) -> pa.Table:
        """Make one municipality's rows: those that `citizens` encodes, and a few of them once more, held out."""
        value_NF, y_N = self._drawn(site)
        held = min(len(y_N), 5)
        part_N = np.r_[np.arange(len(y_N)), np.arange(held)]
        columns = {f"x{place:02d}": value_NF[part_N, place] for place in range(NUMBERS)}
        mark_N = np.repeat(["no", "yes"], [len(y_N), held])
        return pa.table({**columns, "label": y_N[part_N], "held": mark_N})

    def card(self, rounds: int) -> UseCaseCard:
        """Describe the work as a use case."""
        words = {"da": "Målestok", "en": "Benchmark"}
        return parse_card({
            "id": "speed", "version": 1, "title": words, "category": "forecasting", "model_type": "specific",
            "unit": None, "label": {"column": "label", "kind": "binary"},
            "features": [
                {"name": f"x{place:02d}", "kind": "number", "min": -1.0, "max": 1.0} for place in range(NUMBERS)
            ],
            "model": {"kind": "mlp" if self.hidden else "logistic", "hidden": list(self.hidden)},
            "training": {
                "rounds": rounds, "local_epochs": 1, "batch_size": self.batch_size, "learning_rate": LEARNING_RATE,
            },
            "privacy": {"epsilon": 2.0, "delta": 1e-5, "clipping_norm": 1.0},
            "law": {"special_categories": False, "ai_act": "none", "basis": {}},
        })  # fmt: skip

    def _drawn(self, site: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Draw a municipality's values, and labels that depend on them."""
        rng = np.random.default_rng([site, 98])
        value_NF = rng.uniform(-1, 1, (int(self.sizes_S[site]), NUMBERS)).astype(np.float32)
        likely_N = 1 / (1 + np.exp(-3 * value_NF[:, :4].sum(axis=1)))
        return value_NF, (rng.random(len(value_NF)) < likely_N).astype(np.int64)


SMALL = Workload(name="98 small", sites=98, rows=77_116)
LARGE = Workload(name="98 large", sites=98, rows=5_000_000, batch_size=512)
HUNDRED = Workload(name="100 sites", sites=100, rows=20_000)
THOUSAND = Workload(name="1,000 sites", sites=1_000, rows=200_000)
TEN_THOUSAND = Workload(name="10,000 sites", sites=10_000, rows=2_000_000)
