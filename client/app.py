"""Wire the municipality's answers into a Flower ClientApp."""

import logging

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.dataset import Partition
from client.node import Node, Refused
from client.policy import Policy
from client.source import Source
from client.store import Store
from faelles.errors import WireError
from faelles.privacy.mechanisms import Mechanisms
from faelles.records import Code, answer_message, parse_request, refusal_message

log = logging.getLogger(__name__)


def build_client_app(
    mechanisms: Mechanisms, store: Store, source: Source, policy: Policy, partition: Partition | None = None
) -> ClientApp:
    """Build the ClientApp of one municipality.

    Args:
        mechanisms: Opens the randomness of each release.
        store: The municipality's store.
        source: The population's rows.
        policy: The municipality's rules.
        partition: How citizens are held out; by the store's key where it is None.

    Returns:
        An app that answers query.ready, train, evaluate, query.final and query.close.
    """
    return app_of(Node(mechanisms=mechanisms, store=store, source=source, policy=policy, partition=partition))


def app_of(node: Node) -> ClientApp:
    """Wrap a node's answers into a ClientApp."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        return reply(node, message)

    app.train()(answer)
    app.evaluate()(answer)
    for action in ("ready", "final", "close"):
        app.query(action)(answer)
    return app


def reply(node: Node, message: Message) -> Message:
    """Answer one message; whatever goes wrong leaves as a code and never as a text that data could colour."""
    try:
        return answer_message(node.answer(parse_request(message)), message)
    except Refused as refused:
        return refusal_message(refused.code, message)
    except WireError:
        return refusal_message(Code.MALFORMED, message)
    except Exception as error:
        log.error("event=failed kind=%s error=%s", message.metadata.message_type, type(error).__name__)
        return refusal_message(Code.FAILED, message)
