"""Real municipalities for the tests: agents that were set up by the very commands their people would type."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
import yaml
from flwr.app import Context, Message, RecordDict

from client.app import MunicipalityApp, open_node
from client.cli import main
from client.home import POLICY, Home
from faelles.card import UseCaseCard
from tests.builders import build_card, over_the_wire


def say(*words: str | Path | int | float) -> int:
    """Type a command; return its exit status."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def write_card(folder: Path, card: UseCaseCard | None = None) -> Path:
    """Write a card into a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = (card or build_card()).model_dump(mode="json")
    (folder / "card.yaml").write_text(yaml.safe_dump(fields, allow_unicode=True), encoding="utf-8")
    return folder


def cpr_table(citizens: int, seed: int = 0) -> pa.Table:
    """Draw cyclists who are told apart by their CPR numbers, in columns with the municipality's own names."""
    rng = np.random.default_rng(seed)
    born = [f"{rng.integers(1, 29):02d}{rng.integers(1, 13):02d}{rng.integers(20, 60):02d}" for _ in range(citizens)]
    number = [f"{day}-{rng.integers(1000, 10000)}" for day in born]
    age = rng.uniform(0, 30, citizens)
    repaired = rng.random(citizens) < 1 / (1 + np.exp(3 - age / 5))
    return pa.table({
        "cpr": number,
        "alder": [f"{one:.2f}".replace(".", ",") for one in age],
        "brand": rng.choice(["cargo", "city"], citizens),
        "repaired": np.where(repaired, "yes", "no"),
    })  # fmt: skip


class Municipality:
    """Hold one municipality's folder, set up by commands up to an approval."""

    def __init__(self, folder: Path, code: str, table: pa.Table, card: UseCaseCard | None = None) -> None:
        self.folder, self.code = folder / f"agent-{code}", code
        self.data, self.card = folder / f"borgere-{code}.csv", card or build_card()
        self.card_folder = write_card(folder / self.card.id, self.card)
        pyarrow.csv.write_csv(table, self.data, pyarrow.csv.WriteOptions(delimiter=";"))
        assert say("init", "--municipality", code, "--dir", self.folder) == 0
        self.change_policy("cards: []", "cards: all")
        self.change_policy("largest_run_share: 0.7", "largest_run_share: 1.0")

    def change_policy(self, old: str, new: str) -> None:
        """Edit policy.yaml as a person would."""
        path = self.folder / POLICY
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def change_settings(self, old: str, new: str) -> None:
        """Edit agent.yaml as a person would."""
        path = self.folder / "agent.yaml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def register(self) -> int:
        """Register its cyclists and say what their columns are called."""
        status = say("population", "add", "cyklister", "--citizen", "cpr", "--source", self.data,
                     "--no-special-categories", "--dir", self.folder)  # fmt: skip
        if status == 0:
            with (self.folder / "agent.yaml").open("a", encoding="utf-8") as file:
                file.write("    columns: {age: alder}\n")
        return status

    def approve(self, epsilon: float = 2.0, *more: str | Path) -> int:
        """Approve the card."""
        return say("approve", self.card_folder, "--population", "cyklister", "--declared-size", 50,
                   "--epsilon", epsilon, "--until", "2999-12-31", "--dir", self.folder, *more)  # fmt: skip

    def home(self) -> Home:
        """Open its folder."""
        return Home.open(self.folder)

    def serve(self) -> "Served":
        """Start what answers messages."""
        return Served(self)


class Served:
    """Answer messages with the municipality's production node; one at a time may be open."""

    def __init__(self, municipality: Municipality) -> None:
        self.node = open_node(municipality.home())
        # Whatever a policy says: other tests fork this process, and a pool of threads would not go along.
        torch.set_num_threads(1)
        self.app = MunicipalityApp(self.node)

    def __call__(self, message: Message) -> list[Message]:
        """Answer a message over the wire."""
        context = Context(run_id=1, node_id=1001, node_config={}, state=RecordDict(), run_config={})
        return [over_the_wire(self.app(over_the_wire(message), context))]

    def close(self) -> None:
        """Let the store go."""
        self.node.store.close()
