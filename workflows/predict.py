"""`encnet predict MODEL INPUT OUTPUT`: class maps, overlays and figures of images, in folders or on S3.

encnet predict models:/encnet-camvid@champion ~/frames ~/labelled
encnet predict models:/encnet-camvid@champion 's3://encnet/video/*.jpg' s3://encnet/labelled --ray --num-workers 8
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console

from infra.local import settings
from workflows.data_runner import ray_option
from workflows.scales import parse_scales, scales_option

if TYPE_CHECKING:
    from pipeline.predict import Outcome, Predictor
    from pipeline.predict_inputs import Found
    from pipeline.predict_model import Options
    from pipeline.predict_plan import Job
    from pipeline.predict_results import Classes
    from pipeline.registry import ResolvedModel
    from pipeline.storage import Store

MAX_SHOWN = 20
NO_DATA = "none"


@click.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.argument("output")
@click.option("--data", metavar="URI",
              help="The data set that names and colours the classes; none: numbers and made-up colours.  "
              "[default: the one that a registered model was trained on]")  # fmt: skip
@scales_option
@click.option("--flip", is_flag=True, help="Average with the mirrored image.")
@click.option("--crop-size", default=0, show_default=True, type=click.IntRange(0),
              help="Side of the sliding window, which bounds memory on large images; 0: whole images.")  # fmt: skip
@click.option("--stride", default=0, type=click.IntRange(0), help="Of the window.  [default: 2/3 of its side]")
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Write the image under the colours too.")
@click.option("--batch-size", default=4, show_default=True, type=click.IntRange(1),
              help="Neighbours of one size predicted together.")  # fmt: skip
@click.option("--force", is_flag=True, help="Predict again what is finished.")
@ray_option
@click.option("--num-workers", default=2, show_default=True, type=click.IntRange(1), help="With --ray: tasks at once.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
def predict(
    model: str,
    inputs: tuple[str, ...],
    output: str,
    data: str | None,
    scales: str,
    flip: bool,
    crop_size: int,
    stride: int,
    overlay: bool,
    batch_size: int,
    force: bool,
    use_ray: bool,
    num_workers: int,
    as_json: bool,
) -> None:
    """Label each pixel of the images at INPUT with MODEL; write the results below OUTPUT.

    \b
    encnet predict models:/encnet-camvid@champion photo.jpg frames/ labelled/
    encnet predict street-model 'frames/**/left_*.png' labelled/ --data s3://encnet/data/camvid
    encnet predict models:/encnet-camvid/3 s3://encnet/video s3://encnet/labelled --ray --num-workers 8

    MODEL: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model, a folder with weights.safetensors, or such a
    file. INPUT: images (JPEG or PNG), folders or s3:// prefixes with all that is below them, or patterns in quotes,
    in which ** is any number of folders. Hidden files and those with other extensions are passed over; frames of a
    video come in the order of their numbers. OUTPUT: a folder or s3:// prefix; what lies in it is never an input.

    Of an image a/b.jpg below INPUT there are a/b.png, a PNG of class ids in the colours of the data set;
    a/b.overlay.jpg; and a/b.json: the share of each class, how sure the model is, and what it was made with.
    All have the size of the image as it is stored: an EXIF orientation is left alone, as in training.

    Asked for again, it goes on where it was interrupted: an image is finished once its .json is there, which is of
    that image, model, data set and those options. Images that can't be read are listed at the end; the exit code is 0
    unless all are such. With --ray, every node of the cluster has to see INPUT and OUTPUT.
    """
    if model.startswith(("models:/", "runs:/")):
        settings.require({"mlflow"})
    if use_ray:
        settings.require({"ray"})
    from pipeline.predict_inputs import find_inputs
    from pipeline.predict_model import Options
    from pipeline.registry import resolve_model
    from pipeline.storage import open_store

    options = Options(scales=parse_scales(scales), flip=flip, crop_size=crop_size, stride=stride, overlay=overlay)
    store = open_store(output)
    found = find_inputs(inputs, store)
    with resolve_model(model) as resolved:
        predictor = prepare(resolved, data, options, batch_size, store)
    jobs = plan(predictor, found, force)
    outcomes = run(predictor, jobs, len(found.images), num_workers if use_ray else 0)
    tell(predictor, found, outcomes, as_json)


def prepare(resolved: ResolvedModel, data: str | None, options: Options, batch_size: int, output: Store) -> Predictor:
    """The model with the names and colours of its classes. Raises InputError."""
    import encnet
    from pipeline.errors import InputError
    from pipeline.predict import Predictor
    from pipeline.predict_model import Weights

    try:
        num_classes = encnet.read_config(resolved.weights).num_classes
    except ValueError as error:
        raise InputError(f"MODEL: {error}") from None
    return Predictor(
        model_uri=resolved.uri,
        weights=Weights.read(resolved.weights),
        classes=name_classes(resolved, data, num_classes),
        options=options,
        batch_size=batch_size,
        output=output,
    )


def name_classes(resolved: ResolvedModel, data: str | None, num_classes: int) -> Classes:
    """Names and colours of a data set, of that on which the model was trained, or made up. Raises InputError."""
    from pipeline.datasets.annotations import bit_colours
    from pipeline.errors import InputError
    from pipeline.predict_results import Classes
    from pipeline.registry import training_data
    from pipeline.shards import read_dataset
    from pipeline.storage import open_store

    uri = training_data(resolved) if data is None else data
    if uri in ("", NO_DATA):
        return Classes(tuple(map(str, range(num_classes))), bit_colours(range(1, num_classes + 1)))
    try:
        dataset = read_dataset(open_store(uri))
    except InputError as error:
        if data is not None:
            raise
        raise InputError(
            f"MODEL: {resolved.uri} was trained on {uri}, which can't be read ({error}): name a copy of it with "
            f"--data, or give --data {NO_DATA} to do without names and colours"
        ) from None
    if len(dataset.classes) != num_classes:
        raise InputError(
            f"data: {dataset.name!r} has {len(dataset.classes)} classes, but {resolved.uri} has {num_classes}: name "
            f"the data set that it was trained on, or give --data {NO_DATA}"
        )
    return Classes(dataset.classes, dataset.palette)


def plan(predictor: Predictor, found: Found, force: bool) -> list[Job]:
    """What is left to do, by what is there in OUTPUT."""
    from pipeline.predict_plan import left_to_do, recorded_names
    from pipeline.predict_results import read_fingerprints

    output = predictor.output
    output.ensure_bucket()
    there = set(output.list())
    records = {} if force else read_fingerprints(output, recorded_names(found.images, there))
    return left_to_do(found.images, records, predictor.identity, there, force)


def run(predictor: Predictor, jobs: list[Job], num_images: int, num_ray_workers: int) -> list[Outcome]:
    """Predict what is left to do, here or by so many tasks of a cluster, and show how far it is."""
    from pipeline.predict import predict_here, predict_on_ray
    from pipeline.stop_signals import StopSignals
    from workflows.split_progress import SplitProgress

    with StopSignals(), SplitProgress(Console(stderr=True), {"images": num_images}, "done") as progress:
        progress("images", num_images - len(jobs))

        def done(count: int) -> None:
            progress("images", count)

        if num_ray_workers and jobs:
            return predict_on_ray(predictor, jobs, done, num_ray_workers)
        return predict_here(predictor, jobs, done)


def tell(predictor: Predictor, found: Found, outcomes: Sequence[Outcome], as_json: bool) -> None:
    """Say what was done, and name the images that can't be predicted. Raises DataError where there are no others."""
    from pipeline.errors import DataError

    output, total = predictor.output.uri(), len(found.images)
    bad = [outcome for outcome in outcomes if outcome.fault]
    counts = {"predicted": len(outcomes) - len(bad), "skipped": total - len(outcomes)}
    for outcome in bad[:MAX_SHOWN]:
        click.echo(f"bad image  {outcome.uri}: {outcome.fault}", err=True)
    if others := found.passed_over:
        kinds = ", ".join(f"{count} of {extension}" for extension, count in sorted(others.items()))
        click.echo(f"passed over, by their extensions: {kinds}", err=True)
    if as_json:
        named = [{"input": outcome.uri, "error": outcome.fault} for outcome in bad]
        passed_over = {"passed_over": others.total()}
        told = {"model_uri": predictor.model_uri, "output": output, "images": total, **counts, "bad": named}
        click.echo(json.dumps(told | passed_over))
    else:
        click.echo(f"{output}: {counts['predicted']} images predicted, {counts['skipped']} were finished before")
    if len(bad) == total:
        raise DataError(f"{output}: none of {total} images can be predicted: {bad[0].uri}: {bad[0].fault}")
    if bad:
        more = f", of which {MAX_SHOWN} are named" if len(bad) > MAX_SHOWN else ""
        click.echo(f"warning: {len(bad)} of {total} images are bad{more}: they have no results", err=True)
