"""What commands do beyond one call of the library: find the clips to score, and tell kinds apart."""

from pathlib import Path

from handcraft.checkpoint import Checkpoint, load
from handcraft.config import Recipe
from handcraft.data.clips import Clips, load_clips
from handcraft.data.preprocess import from_signature
from handcraft.data.residence import Residence, open_clips
from handcraft.data.store import Store
from handcraft.distributed import on_first
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.evaluate import evaluate_classifier, evaluate_generator
from handcraft.match import GENERATORS, classifier_folder
from handcraft.partition import partition
from handcraft.predict import load_for
from handcraft.recipe import check_recipe
from handcraft.training import Data, without_labels

ALL = "all"


def without_lists(value: dict) -> dict:
    """Figures fit for a terminal: those that are lists, such as errors per landmark, left out at every depth."""
    return {
        name: without_lists(entry) if isinstance(entry, dict) else entry
        for name, entry in value.items()
        if not isinstance(entry, list)
    }


def training_data(
    store: Path,
    recipe: Recipe,
    seed: int,
    clips_per_class: int | None,
    residence: Residence = "auto",
    *,
    unlabelled: bool = False,
) -> Data:
    """The clips of a store and their uses for a training command, all checked first. unlabelled: all of them, whatever
    their marks, without their labels."""
    check_recipe(recipe)
    if unlabelled and clips_per_class is not None:
        raise ConfigError(
            f"--clips-per-class is {clips_per_class}, but --unlabelled trains on all clips and knows no classes; give "
            "one of the two"
        )
    if not 0 <= seed < 1 << 63:
        raise ConfigError(f"--seed is {seed}; expected 0 to 2^63 - 1")
    opened = Store(store)
    on_first(opened.verify)
    clips = open_clips(opened, recipe.preprocess, residence)
    if unlabelled:
        return without_labels(clips, seed)
    part = partition(
        clips,
        seed=seed,
        test_share=recipe.test_share,
        clips_per_class=clips_per_class,
        validation_share=recipe.validation_share,
    )
    return Data(clips, part, residence)


def evaluation(model: Path, store: Path, split: str, test_share: float, confusion: Path | None) -> dict:
    """Figures of a classifier's run, or of the generators in `model/forward` and `model/reversed`, as plain values.

    split "all" scores every clip of the store, whatever its mark; "test" of a store whose clips are not marked scores
    those that training with this `test_share` held out.
    """
    if (model / "forward").is_dir() and (model / "reversed").is_dir():
        if confusion is not None:
            raise ConfigError(f"--confusion is {confusion}, but {model} holds generators, which recognise nothing")
        forward, reverse = load(model / "forward"), load(model / "reversed")
        return evaluate_generator(forward, reverse, _scored(forward, Store(store), split, test_share), split)
    checkpoint = load(classifier_folder(model))
    if checkpoint.kind in GENERATORS:
        raise CheckpointError(f"{model}: is one generator; give the folder that holds forward/ and reversed/")
    data = _scored(checkpoint, Store(store), split, test_share)
    row = evaluate_classifier(checkpoint, data, split, confusion=confusion)
    return {name: value.tolist() if name == "confusion" else value for name, value in row.items()}


def distribution(real: Path, synthetic: Path, model: Path | None, split: str, *, draws: int, seed: int) -> dict:
    """`metrics.distribution.compare` of two stores; features of the classifier `model`, or of the poses where None.

    Both stores are read with the classifier's preprocessing, or the one that a centred store says it had.
    """
    from handcraft.metrics.distribution import compare  # which other commands do not need

    stores = {"real": Store(real), "synthetic": Store(synthetic)}
    checkpoint = None if model is None else load(classifier_folder(model))
    if checkpoint is not None:
        preprocess = checkpoint.preprocess
    else:
        signed = [store.manifest.preprocessing for store in stores.values() if store.manifest.stage == "centred"]
        if not signed:
            raise ConfigError("evaluate: both stores are raw; give a classifier, whose preprocessing they are to have")
        preprocess = from_signature(signed[0])
    clips = {}
    for name, store in stores.items():
        store.verify()
        clips[name] = load_clips(store, preprocess)
    if split != ALL:
        chosen = clips["real"].split == split
        if not chosen.any():
            raise DataError(f"{real}: no clip is marked {split!r}; split the data first, or say --split all")
        clips["real"] = clips["real"].subset(chosen)
    found = compare(clips["real"], clips["synthetic"], classifier=checkpoint, seed=seed, draws=draws)
    return {"real": str(real), "synthetic": str(synthetic), "split": split, **found}


def _scored(checkpoint: Checkpoint, store: Store, split: str, test_share: float) -> Store | Clips:
    """The store, where its marks say what to score; otherwise the clips to score."""
    if split == ALL:
        return load_for(checkpoint, store)
    if split == "test" and not set(store.splits.tolist()) & {"train", "test"}:
        clips = load_for(checkpoint, store)
        return clips.subset(partition(clips, seed=0, test_share=test_share).test)  # the same with every seed
    return store
