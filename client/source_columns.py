"""Choose columns of a source by their names."""

from collections.abc import Sequence

from faelles.errors import DataError


def choose_columns(wanted: Sequence[str] | None, have: Sequence[str], where: str, hint: tuple[str, str]) -> list[str]:
    """Choose the wanted columns of those that are there, each once.

    The names that are there stand in no error: in a file without a header they are the first citizen's values.

    Args:
        wanted: Names from settings and cards, which are public; None for all.
        have: What the source has.
        where: How to call the source in an error.
        hint: What else may be wrong, in English and Danish.

    Raises:
        DataError: Some are missing, all of which are named, or a name that is wanted is there more than once.
    """
    names = list(dict.fromkeys(have if wanted is None else wanted))
    missing = [name for name in names if name not in have]
    if missing:
        raise DataError(
            f"{where}: expected the column(s) {', '.join(missing)}, which are not there; {hint[0]}",
            da=f"{where}: mangler kolonne(r) {', '.join(missing)}; {hint[1]}",
        )
    if len(set(have)) < len(have):
        places = [str(place) for place, name in enumerate(have, 1) if have.count(name) > 1]
        raise DataError(
            f"{where}: expected every column name once, the columns {', '.join(places)} share names; rename some",
            da=f"{where}: hvert kolonnenavn skal stå én gang, men kolonne {', '.join(places)} deler navne; omdøb nogle",
        )
    return names
