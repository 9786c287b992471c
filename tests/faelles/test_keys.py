"""No nonsense passes for a signature, and a key or a signature is written in one way only."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.keys import Signer
from faelles.keys import PREFIX, decode, encode, fingerprint, verify
from tests.books import SEED

SIGNER, OTHER = Signer.from_seed(SEED), Signer.from_seed(SEED[::-1])
SIGNATURE = SIGNER.sign(b"words")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_a_signature_is_of_these_words_and_this_key_alone() -> None:
    assert verify(SIGNER.public, b"words", SIGNATURE)
    assert not verify(SIGNER.public, b"other words", SIGNATURE)
    assert not verify(OTHER.public, b"words", SIGNATURE)
    assert not verify(SIGNER.public, b"words", OTHER.sign(b"words"))
    assert not verify(SIGNER.public.removeprefix(PREFIX), b"words", SIGNATURE)


@given(st.text(max_size=90), st.text(max_size=90))
def test_nonsense_of_any_kind_is_a_no(public: str, signature: str) -> None:
    assert not verify(public, b"words", SIGNATURE)
    assert not verify(PREFIX + public, b"words", SIGNATURE)
    assert not verify(SIGNER.public, b"words", signature)


def test_a_key_and_a_signature_have_one_spelling() -> None:
    # The last letter has bits to spare, so that four or sixteen texts would say the same bytes.
    for whole in (SIGNER.public.removeprefix(PREFIX), SIGNATURE):
        data = decode(whole)
        lax = [whole[:-1] + letter for letter in LETTERS]
        same = [text for text in lax if base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == data]
        assert len(same) > 1
        assert [text for text in same if spells(text, data)] == [whole]
    twin = SIGNER.public[:-1] + LETTERS[LETTERS.index(SIGNER.public[-1]) + 1]
    assert not verify(twin, b"words", SIGNATURE)


def spells(text: str, data: bytes) -> bool:
    try:
        return decode(text) == data
    except ValueError:
        return False


@given(st.binary(max_size=70))
def test_bytes_come_back_as_they_were_written(data: bytes) -> None:
    assert decode(encode(data)) == data
    assert set(encode(data)) <= set(LETTERS)


@pytest.mark.parametrize("text", ["a", "ab==", "a+b/", "+_-/", "ab c", "ab\n", "é", "a===", "\ud800"])
def test_text_that_was_not_written_so_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_a_public_key_is_text_that_two_people_can_compare() -> None:
    assert SIGNER.public == Signer.from_seed(SEED).public != OTHER.public
    assert len(SIGNER.public) == len(PREFIX) + 43
    groups = fingerprint(SIGNER.public).split()
    assert [len(group) for group in groups] == [4] * 8
    assert fingerprint(OTHER.public) != fingerprint(SIGNER.public)
