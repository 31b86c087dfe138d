"""`jaxseg data prepare`: stores a data set the way training reads it, ahead of training."""

from rich.console import Console

from jaxseg import config


def prepare(settings: config.Run) -> None:
    """Prepares a data set, where that has not been done, and says what it holds.

    Args:
      settings: whose data is prepared.

    Raises:
      UserError: what is wrong with the data set or its settings; nothing prepared earlier is touched then.
    """
    console = Console(soft_wrap=True, highlight=False)
    if isinstance(settings, config.Classification):
        from jaxseg.data import pictures

        found = pictures.dataset(settings.data)
        sizes = ", ".join(f"{name} {len(found.split(name)):,} images" for name in found.builder.info.splits)
        console.print(f"{found.title}: {sizes}, {len(found.classes):,} classes", markup=False)
        return
    from jaxseg.data import prepare as data

    dataset = data.dataset(settings.data)
    counts = {split: (len(rows), sum(len(row.instances) for row in rows)) for split, rows in dataset.records.items()}
    held = ", ".join(
        f"{split} {images:,} images with {objects:,} objects" for split, (images, objects) in counts.items()
    )
    console.print(f"{dataset.title}: {held}", markup=False)
