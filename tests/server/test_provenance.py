import json
from pathlib import Path

import pytest

from faelles.errors import RunError
from server import provenance
from server.orders import order
from server.provenance import FILE, Provenance, package_sha256, write_provenance


def read(folder: Path) -> Provenance:
    return Provenance.model_validate_json((folder / FILE).read_bytes())


def test_it_names_card_configuration_code_and_bundle(tmp_path: Path) -> None:
    config = order(["usecase=elder-admission", "rounds=7"], tmp_path)
    write_provenance(tmp_path, config, b"bundle")
    found = read(tmp_path)
    assert (found.card_sha256, found.config_sha256) == (config.card.sha256, config.sha256)
    assert json.loads(found.config)["terms"]["rounds"] == 7
    assert set(found.packages) == {"faelles", "catalogue", "strategies", "server", "configs"}
    assert found.versions["flwr"] == "1.41.0"
    assert found.earlier == ()
    assert str(tmp_path) not in found.model_dump_json()


def test_a_run_taken_up_by_another_version_keeps_what_made_its_first_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = order(["usecase=elder-admission"], tmp_path)
    for commit in ("one", "one", "two", "two", "three"):
        monkeypatch.setattr(provenance, "_commit", lambda commit=commit: commit)
        write_provenance(tmp_path, config, b"bundle")
    assert read(tmp_path).commit == "three"
    assert [one.commit for one in read(tmp_path).earlier] == ["one", "two"]


def test_one_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(RunError, match="remove it"):
        write_provenance(tmp_path, order(["usecase=elder-admission"], tmp_path), b"bundle")
    assert (tmp_path / FILE).read_text() == "{"


def test_a_package_is_known_by_its_files_and_not_by_its_place() -> None:
    assert package_sha256("configs") == package_sha256("configs")
    assert package_sha256("configs") != package_sha256("strategies")
