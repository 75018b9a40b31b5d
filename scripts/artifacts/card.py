"""Writes the card of a study: its title, and how figures call its model and settings.

python -m scripts.artifacts.card KEY
"""

from scripts.common.errors import UserError, run
from scripts.launch.command import current_launch, make, product_parser
from scripts.launch.launch import Launch


def main(launch: Launch, name: str) -> None:
    """Makes the study's card; its spec is all of its content."""
    card = launch.grid.card
    if name not in (card.key, card.name):
        raise UserError(f"{name}: is not the card of study {launch.name!r}, which is {card.key}")
    make(launch, card, lambda out: {})
    print(f"{card.key}: complete")


if __name__ == "__main__":
    parser = product_parser(__doc__)
    run(lambda arguments: main(current_launch(arguments), arguments.product), parser)
