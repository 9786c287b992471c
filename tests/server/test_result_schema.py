"""The page that describes result.json is true."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from faelles.card import Bilingual
from server.result import Result

PAGE = Path(__file__).parents[2] / "docs" / "result-schema.md"
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Bilingual: "da, en", Any: "anything"}


def described(annotation: Any, path: str) -> Iterator[tuple[str, str]]:
    """List the path and the type of every value that a model can hold, as the page of the schema writes them."""
    parts = [part for part in get_args(annotation) if part is not NoneType]
    optional = NoneType in get_args(annotation)
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation is not Bilingual:
        for name, field in annotation.model_fields.items():
            yield from described(field.annotation, f"{path}.{name}" if path else name)
    elif optional and len(parts) == 1:
        for inner, kind in described(parts[0], path):
            yield inner, f"{kind} or null" if inner == path else kind
    elif origin is dict:
        yield from described(parts[1], f"{path}.<>")
    elif origin is list and parts[0] is str:
        yield path, "list of text"
    elif origin is list:
        yield from described(parts[0], f"{path}[]")
    else:
        yield path, "text" if origin is Literal else WORDS[annotation]


def test_the_schema_page_describes_every_field_with_its_type() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    page = {re.sub(r"<\w+>", "<>", path): kind for path, kind in rows}
    assert page == dict(described(Result, ""))
    assert len(rows) == len(page)
