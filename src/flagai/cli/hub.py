"""``flagai download``, ``verify``, ``push`` and ``cache``."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flagai import settings
from flagai.cli.command import command
from flagai.cli.options import Cards, Json
from flagai.cli.output import print_json
from flagai.cli.terminal import show_check
from flagai.errors import InputError, ModelNotFoundError, printable
from flagai.system import allocated

if TYPE_CHECKING:
    from flagai.catalog.card import Card
    from flagai.hub.request import UncatalogedModel

Home = Annotated[
    Path | None,
    typer.Option("--path", help="Directory that contains the models. Default: FLAGAI_HOME, else ./checkpoints."),
]
cache = typer.Typer(help="List or delete downloaded models.", no_args_is_help=True, rich_markup_mode=None)


@command()
def download(
    name: Annotated[
        str,
        typer.Argument(help="Model name, repository (owner/name), or source such as modelscope:owner/name@revision."),
    ],
    path: Home = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Download from this source instead. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be downloaded, and stop.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ from the source.")] = False,
    cards: Cards = None,
) -> None:
    """Download a model: missing files only; resumed if interrupted; verified where checksums are known.

    From a mirror: HF_ENDPOINT=https://hf-mirror.com flagai download BAAI/bge-small-zh-v1.5
    """
    from flagai import hub

    model = _model(name, cards)
    folder = (path if path is not None else settings.home()) / _folder_name(model)
    if not dry_run:
        hub.ensure(model, folder, sources=source, force=force)
        typer.echo(str(folder))
        return
    from flagai.hub.progress import readable

    offer = hub.look(model, folder, sources=source)
    if offer is None:
        typer.echo(f"{folder} is complete; nothing to fetch.")
        return
    for file in offer.files:
        present = (folder / file.name).is_file()
        typer.echo(f"{'present' if present else 'missing'}  {readable(file.size):>12}  {file.name}")
    missing = [file.size for file in offer.files if not (folder / file.name).is_file()]
    total = sum(size for size in missing if size is not None) if None not in missing else None
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    typer.echo(
        f"{readable(total)} from {offer.spec} to {folder}, where {readable(shutil.disk_usage(there).free)} are free"
    )


@command()
def verify(
    name: Annotated[str, typer.Argument(help="Model name or directory.")],
    path: Home = None,
    cards: Cards = None,
) -> None:
    """Recompute the checksums of a model and compare them with the download manifest."""
    from flagai.hub import manifest

    sick = False
    for finding in manifest.verify(_folder(name, path, cards)):
        sick |= finding.problem is not None
        show_check(finding.problem is None, f"{finding.name} {finding.problem or ''}".rstrip())
    if sick:
        typer.echo(f"`flagai download {name} --force` fetches again what differs.")
        raise typer.Exit(1)


@command()
def push(
    folder: Annotated[Path, typer.Argument(help="The folder of a model.")],
    target: Annotated[str, typer.Argument(help="hf:owner/name or modelscope:owner/name; created if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    licence: Annotated[str | None, typer.Option(help="Write it into the model's card first, such as mit.")] = None,
    message: Annotated[str, typer.Option(help="What the commit says.")] = "Upload model",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of the repository that differ.")
    ] = False,
) -> None:
    """Publish a model; cut off, the same command goes on. HF_TOKEN or MODELSCOPE_API_TOKEN lets you write."""
    from flagai.hub.licences import state_licence
    from flagai.hub.push import push as publish

    state_licence(folder, licence)
    typer.echo(publish(folder, target, private=private, overwrite=overwrite, message=message))


@cache.command("list")
@command()
def list_cache(path: Home = None, as_json: Json = False) -> None:
    """List downloaded models with their sizes."""
    from flagai.hub.manifest import Manifest
    from flagai.hub.names import MANIFEST
    from flagai.hub.progress import readable

    home = path if path is not None else settings.home()
    for folder in _downloads(home):
        known = Manifest.read(folder / MANIFEST)
        size = sum(allocated(file) for file in folder.rglob("*") if file.is_file())
        state = known.source if known is not None else "not complete"
        name = folder.relative_to(home).as_posix()
        if as_json:
            print_json({"name": name, "bytes": size, "source": known.source if known else None})
        else:
            typer.echo(printable(f"{readable(size):>12}  {name}  ({state})"))


@cache.command("remove")
@command()
def remove(
    name: Annotated[str, typer.Argument(help="Model name.")],
    path: Home = None,
    cards: Cards = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a model's downloaded files; files you added are kept."""
    from flagai.hub.store import remove_downloaded

    folder = _folder(name, path, cards)
    if not yes:
        typer.confirm(f"Remove what was downloaded into {folder}?", abort=True)
    kept = remove_downloaded(folder)
    typer.echo(f"removed {folder}" if not kept else f"kept in {folder}, as not downloaded: {', '.join(kept)}")


def _model(name: str, cards: Path | None) -> "Card | UncatalogedModel":
    from flagai.catalog.catalog import find
    from flagai.hub.repository import repository
    from flagai.hub.request import UncatalogedModel

    if ":" in name:
        return UncatalogedModel.of(name)
    try:
        return find(name, cards=cards)
    except ModelNotFoundError:
        found = repository(name, settings.home() / "no model directory")  # also where a folder of this name is
        if found is None:
            raise
        return found


def _folder_name(model: "Card | UncatalogedModel") -> str:
    from flagai.hub.request import UncatalogedModel

    if not isinstance(model, UncatalogedModel) and Path(model.name).name != model.name:
        raise InputError(f"{model.name!r} is not a name for a folder.")
    return model.name


def _folder(name: str, path: Path | None, cards: Path | None) -> Path:
    """A model's folder: below the model directory, by any spelling of its name, or as it is given."""
    home = path if path is not None else settings.home()
    if (home / name).is_dir():
        return home / name
    if Path(name).is_dir():
        return Path(name)
    try:
        folder = home / _folder_name(_model(name, cards))
    except ModelNotFoundError:
        folder = home / name
    if not folder.is_dir():
        raise ModelNotFoundError(f"There is no folder {folder}. `flagai cache list` tells what was downloaded.")
    return folder


def _downloads(home: Path) -> Iterator[Path]:
    from flagai.hub.names import MANIFEST, WORK

    folders = [*home.glob("*/"), *home.glob("*/*/")]  # models, and repositories below their owners
    for folder in sorted(folders):
        if folder.name != WORK and ((folder / MANIFEST).exists() or (folder / WORK).exists()):
            yield folder
