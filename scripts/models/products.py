"""Makes base models, here or from outside, and takes the checkpoints that the paper's authors published.

python -m scripts.models.products KEY
"""

from collections.abc import Mapping
from typing import Any

from scripts.common.errors import UserError, run
from scripts.components import models
from scripts.components.making import Builder
from scripts.data.products import make_with
from scripts.launch.command import current_launch, product_parser
from scripts.launch.launch import Launch
from scripts.models import published


def builder(spec: Mapping[str, Any]) -> Builder:
    """What makes the bytes of a model.

    Raises:
        UserError: the spec is that of another product.
    """
    match spec["kind"]:
        case "model":
            return models.maker(spec).build
        case "published":
            return published.build
    raise UserError(f"a product of the kind {spec['kind']!r} is no base model and no published checkpoint")


def make_model(launch: Launch, name: str) -> None:
    """Makes what is missing of a base model or a published checkpoint.

    Raises:
        UserError: there is no such product, or it cannot be made.
    """
    make_with(builder, launch, name)


if __name__ == "__main__":
    parser = product_parser(__doc__)
    run(lambda arguments: make_model(current_launch(arguments), arguments.product), parser)
