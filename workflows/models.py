"""`encnet models`: what is registered, what it is and costs, who is champion; models in and out as files.

encnet models list
encnet models show models:/encnet-camvid@champion
encnet models promote models:/encnet-camvid@candidate --data s3://encnet/data/camvid
"""

from __future__ import annotations

import click

from workflows.model_export import export
from workflows.model_files import import_, pull
from workflows.model_list import list_
from workflows.model_show import show
from workflows.promote import promote, rollback


@click.group()
def models() -> None:
    """Registered models: list, show, import, promote, rollback, pull, export.

    A version of a registered model is new as `candidate`, and becomes `champion` by promotion, after which the champion
    before it is `previous`. Wherever MODEL is asked for, models:/NAME@champion will do.
    """


for command in (list_, show, import_, promote, rollback, pull, export):
    models.add_command(command)
