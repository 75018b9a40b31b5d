"""The linear modules of a transformer block that adapters are put on, and the sets of them that have a name."""

from collections.abc import Iterable
from typing import Literal

Word = Literal["all-linear", "attention", "mlp"]
"""A set of modules that any architecture has, under whatever names."""
Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION: tuple[Module, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP: tuple[Module, ...] = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR: tuple[Module, ...] = (*ATTENTION, *MLP)
WIDENING: tuple[Module, ...] = ("gate_proj", "up_proj")
"""Modules whose outputs have the MLP's width."""

SETS: dict[str, tuple[Module, ...]] = {
    "attention": ATTENTION,
    "mlp without gate": ("up_proj", "down_proj"),
    "mlp": MLP,
    "all without gate": (*ATTENTION, "up_proj", "down_proj"),
    "all": ALL_LINEAR,
}
"""What the paper calls a set of adapted modules; legends and tables have them in this order."""


WORDS: dict[str, tuple[Module, ...]] = {"all-linear": ALL_LINEAR, "attention": ATTENTION, "mlp": MLP}


def llama(modules: str | Iterable[str]) -> tuple[str, ...]:
    """The names of a set of modules in a Llama."""
    return WORDS[modules] if isinstance(modules, str) else tuple(modules)


def word(modules: str | Iterable[str]) -> str:
    """What the paper calls a set of adapted modules; their names joined by `+` where it has no word."""
    wanted = set(llama(modules))
    return next((name for name, names in SETS.items() if set(names) == wanted), "+".join(sorted(wanted)))
