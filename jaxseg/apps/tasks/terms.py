"""Loss terms of one's own in a run: tried before data is read, and their source kept with the run."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from jaxseg import config, lookup
from jaxseg.apps import files
from jaxseg.losses import own
from jaxseg.train import parallel, storage

FOLDER = "terms"
"""Where a run's folder keeps the source of each term."""

PACKAGE = Path(__file__).resolve().parents[2]
"""Of this project: what is in it has a version, and is not copied."""


def resolved(losses: config.Losses) -> config.Losses:
    """Settings with paths of files as from the current folder, however they were given."""
    terms = tuple(dataclasses.replace(term, function=lookup.relative(term.function)) for term in losses.terms)
    return dataclasses.replace(losses, terms=terms)


def require(settings: config.Config) -> None:
    """Tries each term: all of it where the classes are known, otherwise whether there is such a function.

    Raises:
      UserError: one that cannot be trained with.
    """
    classes, k = settings.data.classes, settings.superpixels.size
    height, width = settings.data.crop
    for term in settings.losses.terms:
        if classes:
            sizes = len(classes) + 1, settings.model.embedding, settings.targets.max_instances
            own.check(term, (height // k, width // k), *sizes)
        else:
            own.find(term)


def require_shared(losses: config.Losses) -> None:
    """Refuses terms whose source is not that of the leading process; all processes of a run call this together.

    Raises:
      UserError: naming them.
    """
    own = {term.name: _digest(_source(term)) for term in losses.terms}
    lead = json.loads(parallel.shared_text(json.dumps(own)) or "{}")
    other = sorted(name for name in own.keys() | lead.keys() if own.get(name) != lead.get(name))
    if other:
        raise config.UserError(
            f"Loss terms {', '.join(other)} of this process are not those of process 0. "
            "Give all processes of a run the same config and the same files."
        )


def compare(losses: config.Losses, workdir: storage.Folder) -> None:
    """Refuses terms whose source is not that which a run began with.

    Raises:
      UserError: naming the term and both files.
    """
    for term in losses.terms:
        source, kept = _source(term), _kept(workdir, term)
        if source is not None and kept.is_file() and kept.read_bytes() != source.read_bytes():
            raise config.UserError(
                f"Loss term {term.name} changed since {workdir} began: {source} is not {kept}. Restore it, or give "
                f"another --workdir; to go on with it all the same, remove {kept}."
            )


def moved(old: Any, new: Any) -> bool:
    """Whether two import paths are of one name in files.

    Where a file lies depends on the current folder and on the machine; `compare` looks at what is in it.
    """
    (before, name), (after, other) = (str(path).rpartition(":")[::2] for path in (old, new))
    return name == other and before.endswith(".py") and after.endswith(".py")


def keep(losses: config.Losses, workdir: storage.Folder) -> None:
    """Copies the source file of each term that is not of this package.

    Raises:
      UserError: it cannot be written.
    """
    for term in losses.terms:
        source = _source(term)
        if source is not None:
            files.write_bytes(_kept(workdir, term), source.read_bytes())


def _kept(workdir: storage.Folder, term: config.Term) -> storage.Folder:
    return workdir / FOLDER / f"{term.name}.py"


def _digest(source: Path | None) -> str:
    """Of a file's bytes; empty where there is none."""
    return "" if source is None else hashlib.sha256(source.read_bytes()).hexdigest()


def _source(term: config.Term) -> Path | None:
    """The file that a term is in; None for one of this package, and where there is no source."""
    file = lookup.find(term.function).file
    return None if file is None or file.resolve().is_relative_to(PACKAGE) else file
