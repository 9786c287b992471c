"""Write figures for people, as English writes them; a figure that is not defined is an en dash."""

import math

ABSENT = "–"
MINUS = "−"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fixed(value: float | None, digits: int = 4) -> str:
    """Write a value with a fixed number of decimals."""
    if value is None:
        return ABSENT
    text = f"{value:,.{digits}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-")


def signed(value: float | None, digits: int = 4) -> str:
    """Write a difference with its sign; nothing but zeros has none."""
    text = fixed(value, digits)
    return "+" + text if value is not None and value > 0 and any(digit in text for digit in "123456789") else text


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share of 1 as a percentage."""
    return ABSENT if value is None else fixed(100 * value, digits) + " %"


def significant(value: float | None, digits: int = 3) -> str:
    """Write a value with its leading digits, and no exponent where it is readable without."""
    if value is None:
        return ABSENT
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        raised = f"10{str(int(exponent)).translate(_RAISED)}"
        mantissa = mantissa.rstrip("0").rstrip(".")
        return raised if mantissa == "1" else f"{mantissa} × {raised}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    text = fixed(value, decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def epsilon(value: float | None) -> str:
    """Write ε, rounded up because it is a bound; infinite where there is no privacy."""
    if value is None or math.isinf(value):
        return "∞"
    # The last few bits of a sum are no reason to write 2.01 for 2.
    return fixed(math.ceil(value * 100 - 1e-9) / 100, 2)


def delta(value: float) -> str:
    """Write δ and its odds."""
    if not 0 < value < 1:
        return significant(value)
    written = f"{value:.10f}".rstrip("0") if value >= 1e-7 else significant(value)
    return f"{written} (1 in {math.floor(1 / value + 1e-6):,})"


def seconds(value: float) -> str:
    """Write a duration."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ranges(numbers: list[int]) -> str:
    """Write whole numbers in short: 1–3, 7."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
