"""Wire the municipality's answers into a Flower ClientApp."""

import logging

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.connection import read_settings
from client.home import Home
from client.limits import apply_limits
from client.node import Node
from faelles.errors import WireError
from faelles.privacy.mechanisms import SecureMechanisms
from faelles.records import Code, Refusal, answer_message, parse_request, refusal_message

log = logging.getLogger(__name__)


class MunicipalityApp(ClientApp):
    """Answer every message through one door, whatever its type: Flower's own routing answers with texts of its own."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        return reply(self._node, message)


def open_node(home: Home) -> Node:
    """Open the municipality's own node: its folder, its rules, its rows, and noise from the operating system.

    Answers go to the coordinator that the municipality has enrolled with; the journal names it.

    Raises:
        FaellesError: Something of it is missing, damaged, or in use by another process.
    """
    policy = home.policy_or_nothing()
    apply_limits(policy)
    torch.set_num_threads(policy.threads)  # torch is here already and has read the environment
    coordinator = read_settings(home)
    store = home.store(serving=True)
    return Node(
        municipality=home.settings.municipality,
        signer=home.signer(),
        mechanisms=SecureMechanisms(),
        store=store,
        policy=home.policy_or_nothing,
        rows=lambda population, card: Home.open(home.folder).rows(store, population, card),
        recipient=Node.recipient if coordinator is None else coordinator.address,
    )


def build_client_app(node: Node) -> ClientApp:
    """Build the ClientApp of one municipality."""
    return MunicipalityApp(node)


def reply(node: Node, message: Message) -> Message:
    """Answer one message; whatever goes wrong leaves as a code and never as a text that data could colour."""
    try:
        answer = node.answer(parse_request(message))
    except WireError:
        answer = node.refuse(Refusal(code=Code.MALFORMED))
    except Exception as error:
        # What numpy or Flower make of foreign bytes; the sender learns only that it could not be read.
        log.error("event=unreadable error=%s", type(error).__name__)
        answer = node.refuse(Refusal(code=Code.MALFORMED))
    if isinstance(answer, Refusal):
        return refusal_message(answer, message)
    return answer_message(answer, message)
