"""The studies. Each setting is the base recipe with the fields changed that the study is about, and no other."""

from dataclasses import replace

from handcraft.config import AugmentConfig, Recipe
from handcraft.errors import ConfigError
from handcraft.studies.paper import PAPER
from handcraft.studies.setting import Setting, Study, arms
from handcraft.studies.strong import STRONG

REAL, AUGMENTED, SYNTHETIC, BOTH = (False, False), (False, True), (True, False), (True, True)


_OTHER, _FRESH = "after other data", "fresh"


def _ratio(base: Recipe) -> tuple[Setting, ...]:
    found = [Setting("0 %", base, arms(REAL))]
    for share in sorted({0.05, 0.1, 0.2, 0.3, base.pretrain} - {0}):
        found.append(Setting(f"{100 * share:g} %", replace(base, pretrain=share), arms(SYNTHETIC)))
    return tuple(found)


def _generator_field(base: Recipe, name: str, values: tuple) -> tuple[Setting, ...]:
    """Settings that differ in one field of the generator's model."""
    return tuple(
        Setting(
            f"{value:g}",
            replace(base, generator=replace(base.generator, model=replace(base.generator.model, **{name: value}))),
            arms(SYNTHETIC),
            generators=True,
        )
        for value in values
    )


def _data(base: Recipe) -> tuple[Setting, ...]:
    return tuple(
        Setting(f"{100 * share:g} %", base, arms(REAL, SYNTHETIC), generators=True, share=share)
        for share in (0.1, 0.25, 0.5, 1.0)
    )


def _augmentation(base: Recipe) -> tuple[Setting, ...]:
    """Parts of the classifiers' augmentation alone, and all of it at half, full and double strength; the generators'
    own augmentation is left as it is."""

    def with_augment(change) -> Recipe:
        return replace(
            base,
            transformer=replace(base.transformer, augment=change(base.transformer.augment)),
            mamba=replace(base.mamba, augment=change(base.mamba.augment)),
        )

    def scaled(factor: float):
        return lambda full: AugmentConfig(
            rotation=factor * full.rotation,
            scale=min(0.9, factor * full.scale),
            subwindow=max(0.1, 1 - factor * (1 - full.subwindow)),
        )

    off = AugmentConfig()
    parts = {
        "none": lambda full: off,
        "rotation": lambda full: replace(off, rotation=full.rotation),
        "scale": lambda full: replace(off, scale=full.scale),
        "sub-window": lambda full: replace(off, subwindow=full.subwindow),
        "half": scaled(0.5),
        "full": lambda full: full,
        "double": scaled(2.0),
    }
    return tuple(Setting(name, with_augment(change), arms(AUGMENTED, BOTH)) for name, change in parts.items())


def _window(base: Recipe) -> tuple[Setting, ...]:
    found = []
    for frames in (32, 64, 128):
        generator = replace(
            base.generator,
            model=replace(base.generator.model, context=frames // 2),
            window=replace(base.generator.window, frames=frames),
        )
        classifiers = {
            name: replace(
                getattr(base, name),
                model=replace(getattr(base, name).model, frames=frames),
                window=replace(getattr(base, name).window, frames=frames),
            )
            for name in ("transformer", "mamba")
        }
        recipe = replace(base, generator=generator, **classifiers)
        found.append(Setting(str(frames), recipe, arms(REAL, SYNTHETIC), generators=True))
    return tuple(found)


def _tokens(base: Recipe) -> tuple[Setting, ...]:
    def with_tokens(tokens: str) -> Recipe:
        return replace(
            base,
            transformer=replace(base.transformer, model=replace(base.transformer.model, tokens=tokens)),
            mamba=replace(base.mamba, model=replace(base.mamba.model, tokens=tokens)),
        )

    return tuple(Setting(tokens, with_tokens(tokens), arms(REAL, SYNTHETIC)) for tokens in ("frames", "dct"))


def _splice(base: Recipe) -> tuple[Setting, ...]:
    """Both halves at once against a few frames at a time, each also with adaLN-zero."""

    def recipe(zero: bool, **fields) -> Recipe:
        model = replace(base.generator.model, adaln_zero=zero)
        return replace(base, generator=replace(base.generator, model=model, **fields))

    context = base.generator.model.context
    kinds = {"twins": {"method": "twins"}}
    for step in (context // 8, context // 4, context // 2):
        kinds[f"sequential, {step} frames"] = {"method": "sequential", "step": step, "rollout": min(4, context // step)}
    found = [Setting(name, recipe(False, **fields), arms(SYNTHETIC), generators=True) for name, fields in kinds.items()]
    for name in ("twins", f"sequential, {context // 4} frames"):
        zero = recipe(True, **kinds[name])
        found.append(Setting(f"{name}, adaLN-zero", zero, arms(SYNTHETIC), generators=True))
    return tuple(found)


def _transfer(base: Recipe) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            f"{f'{clips} a class' if clips else 'all clips'}, {_OTHER if start else _FRESH}",
            base,
            generators=True,
            clips_per_class=clips,
            start=start,
        )
        for clips in (2, 5, 10, 20, None)
        for start in (False, True)
    )


STUDIES = {
    study.name: study
    for study in (
        Study("ratio", "How much of the training should be on synthetic clips?", _ratio, "0 %"),
        Study(
            "depth",
            "How many blocks should the generators have?",
            lambda base: _generator_field(base, "blocks", (4, 6, 8)),
            "6",
        ),
        Study(
            "embedding",
            "How wide should the class embedding be?",
            lambda base: _generator_field(base, "embedding", (16, 32, 64)),
            "32",
        ),
        Study(
            "noise",
            "How much noise should be on the class embedding?",
            lambda base: _generator_field(base, "noise", (0.0, 0.05, 0.1, 0.2, 0.4)),
            "0.1",
        ),
        Study("data", "With how many real clips does synthetic pretraining pay?", _data, "100 %", between="arms"),
        Study(
            "augmentation",
            "What does augmentation change, by part and by strength, with and without the generators?",
            _augmentation,
            "none",
        ),
        Study("window", "How many frames should a window have?", _window, "32"),
        Study(
            "splice",
            "Both halves of a clip at once, or a few frames at a time?",
            _splice,
            "twins",
        ),
        Study(
            "transfer",
            "With how few clips do generators do that have seen other data without labels?",
            _transfer,
            partner=lambda name: name.replace(_OTHER, _FRESH) if _OTHER in name else "",
            needs_source=True,
        ),
        Study("tokens", "Frames or their DCT as tokens?", _tokens, "frames"),
        PAPER,
        STRONG,
    )
}


def find_study(name: str) -> Study:
    """The study of that name; `ConfigError` lists those there are."""
    if name not in STUDIES:
        raise ConfigError(f"study is {name!r}; expected one of {', '.join(STUDIES)}")
    return STUDIES[name]


__all__ = ["STUDIES", "find_study"]
