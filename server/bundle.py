"""Generate the bundle that Flower wants with every run: a pyproject.toml and nothing else.

`server.app:app` resolves from the coordinator's installed package, `client.app` from the agent's; no code travels.
"""

from importlib.metadata import version

from flwr.cli.build import build_fab_from_files

from server.federation import RUN_CONFIG_KEY

FILE = "pyproject.toml"
TEMPLATE = """\
[project]
name = "faelles"
version = "{version}"
description = "Names the parts of a federation; both sides run what they have installed"

[tool.flwr.app]
publisher = "faelles"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "{clientapp}"

[tool.flwr.app.config]
{key} = ""
"""


def build_bundle(clientapp: str = "client.app:app") -> bytes:
    """Build it; the same version gives the same bytes.

    Args:
        clientapp: What a stock node would execute; an agent of ours looks at no bundle.
    """
    text = TEMPLATE.format(version=version("faelles"), key=RUN_CONFIG_KEY, clientapp=clientapp)
    bundle: bytes = build_fab_from_files({FILE: text.encode()})[0]
    return bundle
