"""The `encnet` command: one verb a module, loaded when it is asked for.

Exit codes: 0 success, 1 a run failed, 2 what was asked for is wrong (one line on stderr), 130 interrupted,
143 ended by SIGTERM.
"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from infra.local import settings
from pipeline.errors import Interrupted

_VERBS = {
    "demo": ("workflows.demo:demo", "The whole story on the embedded stack, in minutes."),
    "stack": ("workflows.stack:stack", "The local object store, MLflow server and Ray cluster: up, status, down."),
    "data": ("workflows.prepare:data", "Data sets on storage: prepare, index, verify, inspect."),
    "train": ("workflows.train:train", "Train a recipe on the Ray cluster; register the best weights."),
    "sweep": ("workflows.sweep:sweep", "Train with several values of some fields; register the best."),
    "evaluate": (
        "workflows.evaluate:evaluate",
        "Evaluate a model on a split, each sample once; compare two; write a report.",
    ),
    "predict": ("workflows.predict:predict", "Label the pixels of images, folders and s3:// prefixes with a model."),
    "models": ("workflows.models:models", "Registered models: list, show, import, promote, rollback, pull, export."),
    "run": ("workflows.run:run", "From data to champion: prepare, train, evaluate, gate, promote."),
    "submit": ("workflows.submit:submit", "Run any verb as a Ray job and follow its log."),
    "jobs": ("workflows.jobs:jobs", "The jobs on a Ray cluster: list, logs, stop."),
    "doctor": (
        "workflows.doctor:doctor",
        "Check token, storage, MLflow, Ray, versions and GPUs; a remedy for each fault.",
    ),
}


class _Verbs(click.Group):
    """Lists the verbs without importing them: `encnet --help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in _VERBS.items()])


@click.command(cls=_Verbs, context_settings={"max_content_width": 110})
@click.version_option(package_name="encnet-pipeline", prog_name="encnet")
def cli() -> None:
    """Train, evaluate and register EncNet segmentation models.

    New here? `encnet demo` shows all of it on this machine. Then: `encnet stack up`, `encnet data prepare`,
    `encnet train RECIPE`, `encnet evaluate MODEL`.
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        settings.load_environment()
        code = cli.main(prog_name="encnet", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "encnet"
        _fail(f"{where}: {error.format_message()}", 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)
    except Interrupted as stopped:
        _fail(str(stopped), stopped.exit_code)
    except Exception as error:
        # Which errors are the user's and which the run's is told by the classes that the packages define.
        from infra.local.errors import StackError, StackInputError
        from pipeline.errors import InputError, PipelineError

        if isinstance(error, (InputError, StackInputError)):
            _fail(str(error), 2)
        if isinstance(error, (PipelineError, StackError)):
            _fail(str(error), 1)
        raise


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"encnet: {' '.join(message.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
