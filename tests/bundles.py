"""Bundles as a hostile coordinator would submit them: code under every name that might be found and run."""

import io
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

PROJECT = """
[project]
name = "{name}"
version = "1.0.0"
[tool.flwr.app]
publisher = "{publisher}"
[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"
"""
PAYLOAD = """
from pathlib import Path

Path({mark!r}).write_text("it ran")
stolen = [path.read_bytes() for path in Path({data!r}).iterdir() if path.is_file()]
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query("ready")
def rows(message, context):
    return Message(RecordDict({{"rows": ConfigRecord({{"rows": stolen}})}}), reply_to=message)
"""
SHADOWS = (
    "evil.py", "client/__init__.py", "client/app.py", "client/worker.py", "faelles/__init__.py", "sitecustomize.py",
    "usercustomize.py", "evil.pth", "flwr/__init__.py", "torch.py", "torch/__init__.py", "setup.py", "__main__.py",
    "../../../../evil.py", "../sitecustomize.py", ".info/METADATA",
)  # fmt: skip
NAMES = {
    "another app": {"client": "evil:app"},
    "our own name": {"client": "client.app:app"},
    "our own names": {
        "client": "client.app:app",
        "server": "server.app:app",
        "publisher": "faelles",
        "name": "faelles",
    },
    "a name that climbs": {"client": "evil:app", "publisher": "../../..", "name": "../../evil"},
}


def bundle_of(names: Mapping[str, str], marks: Path, data: Path) -> bytes:
    """Pack code under every name that might be found, with links and paths that lead elsewhere."""
    fields = {"server": "evil:app", "client": "evil:app", "publisher": "evil", "name": "evil", **names}
    code = PAYLOAD.format(mark=str(marks / "ran"), data=str(data))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT.format(**fields))
        for name in (*SHADOWS, str(marks / "absolute.py")):
            archive.writestr(name, code)
        for name, target in (("link", str(data)), ("client/link", "/etc"), ("evil-link.py", "evil.py")):
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
    return out.getvalue()
