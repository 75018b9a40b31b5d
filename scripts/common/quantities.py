"""Token counts as people write them: 64K, 0.25B."""

import re
from fractions import Fraction

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)([KMB]?)")


def parse_tokens(value: object) -> int:
    """Tokens from an integer or from text such as ``64K``, ``2.5M``, ``0.25B`` (K, M, B: 10^3, 10^6, 10^9).

    Raises:
        ValueError: anything else, or not a whole positive number of tokens.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        tokens = Fraction(value)
    elif isinstance(value, str) and (match := _PATTERN.fullmatch(value)):
        tokens = Fraction(match[1]) * _UNITS[match[2]]
    else:
        raise ValueError("write tokens as a whole number or like 64K, 2.5M or 0.25B")
    if tokens.denominator != 1 or tokens <= 0:
        raise ValueError("a number of tokens is whole and positive")
    return int(tokens)


def format_tokens(tokens: int) -> str:
    """The shortest text that `parse_tokens` reads back: 64000 is 64K, 250000000 is 0.25B, 20000000000 is 20B."""
    unit = "B" if tokens >= 10**8 else "M" if tokens >= 10**6 else "K" if tokens >= 10**3 else ""
    text = f"{tokens / _UNITS[unit]:.6f}".rstrip("0").rstrip(".") + unit
    return text if parse_tokens(text) == tokens else str(tokens)
