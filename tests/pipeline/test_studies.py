"""Studies: what their settings change, and that stages are shared and resumed."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import yaml
from killing import Forked, wait_for
from tiny_recipe import YAML, one_line_error, run_cli

from handcraft.checkpoint import load
from handcraft.config import LATER, Recipe
from handcraft.data.clips import load_clips
from handcraft.data.manifest import hex_digests
from handcraft.data.split import draw_share
from handcraft.data.toy import make_toy
from handcraft.errors import ConfigError, DataError, TrainingError
from handcraft.partition import partition
from handcraft.recipe import check_recipe, from_plain, load_recipe
from handcraft.resume import locked
from handcraft.studies import changes
from handcraft.studies import stages as stages_module
from handcraft.studies.catalogue import STUDIES, find_study
from handcraft.studies.report import generator_rows, markdown, origin
from handcraft.studies.setting import Arm, Setting, Study
from handcraft.studies.study import run_study

MODELS = ("transformer", "mamba")


def tiny():
    return from_plain(Recipe, yaml.safe_load(YAML), "tiny")


def changed(one, other, prefix=""):
    """Names of the fields in which two nested dicts differ."""
    found = set()
    for name, value in one.items():
        if isinstance(value, dict):
            found |= changed(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            found.add(f"{prefix}{name}")
    return found


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ratio", {"pretrain"}),
        ("depth", {"generator.model.blocks"}),
        ("embedding", {"generator.model.embedding"}),
        ("noise", {"generator.model.noise"}),
        ("data", set()),
        ("transfer", set()),
        (
            "splice",
            {"generator.model.adaln_zero", "generator.method", "generator.step", "generator.rollout"},
        ),
        ("tokens", {"transformer.model.tokens", "mamba.model.tokens"}),
        (
            "window",
            {"generator.model.context", "generator.window.frames"}
            | {f"{model}.{part}.frames" for model in MODELS for part in ("model", "window")},
        ),
        (
            "augmentation",
            {f"{model}.augment.{part}" for model in MODELS for part in ("rotation", "scale", "subwindow")},
        ),
    ],
)
def test_a_study_changes_what_it_is_about_and_nothing_else(name, fields):
    base = load_recipe("small")
    settings = STUDIES[name].settings(base)
    assert len({setting.name for setting in settings}) == len(settings)
    against = STUDIES[name].against([setting.name for setting in settings])
    assert set(against.values()) - {""} <= set(against)
    assert len(set(against.values())) > 1
    for setting in settings:
        check_recipe(setting.recipe)
    found = set().union(*(changed(asdict(base), asdict(setting.recipe)) for setting in settings))
    assert found == fields


def test_each_change_of_the_strong_study_is_one_and_together_they_are_the_recipe():
    base = load_recipe("small")
    settings = {setting.name: setting for setting in STUDIES["strong"].settings(base)}
    both = "transformer.{0} mamba.{0}"
    fields = {
        "missing landmarks interpolated": "preprocess.missing",
        "velocities": both.format("model.velocity"),
        "hands dropped": both.format("augment.drop_hand"),
        "jitter": both.format("augment.jitter"),
        "shear": both.format("augment.shear"),
        "mirror": both.format("augment.mirror"),
        "sub-windows of 80 %": both.format("augment.subwindow"),
        "moving average": both.format("train.ema"),
        "twice the steps": both.format("train.steps"),
        "no validation clips": "validation_share",
        "generators: adaLN-zero": "generator.model.adaln_zero",
        "generators: moving average": "generator.train.ema",
    }
    ends = {changes.BASE, changes.TOGETHER}
    assert set(settings) == {*fields, *ends, *(f"generators: {name}" for name in ends)}
    against = STUDIES["strong"].against(settings)
    for name in ends:
        assert settings[f"generators: {name}"].recipe == settings[name].recipe
    assert settings[changes.BASE].recipe == base
    assert {name for name in settings if not against[name]} == {"as it is", "generators: as it is"}
    assert against["generators: adaLN-zero"] == "generators: as it is"
    assert against["jitter"] == "as it is"
    for name, wanted in fields.items():
        check_recipe(settings[name].recipe)
        assert changed(asdict(base), asdict(settings[name].recipe)) == set(wanted.split()), name
        assert settings[name].generators == name.startswith("generators"), name
    assert settings["twice the steps"].recipe.mamba.train.steps == 2 * base.mamba.train.steps
    together, shipped = settings[changes.TOGETHER].recipe, load_recipe("strong")
    assert changed(asdict(together), asdict(shipped)) == {"name", "description"}


def test_the_paper_study_has_each_later_change_alone_and_our_recipes_on_its_landmarks():
    base = load_recipe("include")
    settings = {setting.name: setting for setting in STUDIES["paper"].settings(base)}
    both = "transformer.{0} mamba.{0}"
    spread, cut = both.format("window.mode"), both.format("augment.subwindow")
    fields = {
        "as it is": "",
        "frames spread evenly": spread,
        "spread evenly, sub-windows of 80 %": f"{spread} {cut}",
        "shoulders as the unit": f"preprocess.centre generator.statistics {both.format('statistics')}",
        "label smoothing": both.format("train.label_smoothing"),
        "frames as tokens": both.format("model.tokens"),
    }
    fields["together"] = " ".join(fields.values())
    for name, wanted in fields.items():
        assert changed(asdict(base), asdict(settings[name].recipe)) == set(wanted.split()), name
    for name in ("small", "strong"):
        recipe, shipped = settings[f"recipe {name}"].recipe, load_recipe(name)
        assert recipe.preprocess.layout == base.preprocess.layout
        assert changed(asdict(recipe), asdict(shipped)) == {"preprocess.layout"}
    assert set(settings) == {*fields, "recipe small", "recipe strong"}
    assert set(STUDIES["paper"].against(settings).values()) == {"", "as it is"}
    for setting in settings.values():
        check_recipe(setting.recipe)


def test_the_ratio_study_has_the_papers_shares():
    names = [setting.name for setting in STUDIES["ratio"].settings(load_recipe("small"))]
    assert names[:5] == ["0 %", "5 %", "10 %", "20 %", "30 %"]


def test_the_data_study_uses_shares_of_the_clips():
    assert [setting.share for setting in STUDIES["data"].settings(Recipe())] == [0.1, 0.25, 0.5, 1.0]


def test_generators_that_saw_other_data_are_compared_with_fresh_ones_of_as_many_clips():
    settings = STUDIES["transfer"].settings(Recipe())
    against = STUDIES["transfer"].against([setting.name for setting in settings])
    assert against["5 a class, after other data"] == "5 a class, fresh"
    assert against["5 a class, fresh"] == ""
    assert against["all clips, after other data"] == "all clips, fresh"
    assert [setting.start for setting in settings] == [False, True] * 5
    with pytest.raises(ConfigError, match="a store with other clips"):
        run_study(STUDIES["transfer"], Recipe(), "nowhere", "out")
    with pytest.raises(ConfigError, match="expected none"):
        run_study(STUDIES["ratio"], Recipe(), "nowhere", "out", source="nowhere")


def test_an_unknown_study_is_refused():
    with pytest.raises(ConfigError, match="ratio, depth"):
        find_study("ratios")


def test_a_smaller_share_is_part_of_a_larger_one():
    labels = np.repeat(np.arange(4), [1, 3, 10, 40])
    places = np.arange(len(labels))
    small, large = (draw_share(places, labels, share, seed=1) for share in (0.1, 0.5))
    assert set(small.tolist()) < set(large.tolist())
    assert np.bincount(labels[small]).tolist() == [1, 2, 2, 4]
    assert np.bincount(labels[large]).tolist() == [1, 2, 5, 20]
    assert not np.array_equal(large, draw_share(places, labels, 0.5, seed=2))


def tiny_settings(base):
    wide = replace(base, transformer=replace(base.transformer, model=replace(base.transformer.model, mlp=32)))
    arms = (Arm("transformer", False, False), Arm("transformer", True, False))
    return (
        Setting("narrow", base, arms, generators=True),
        Setting("wide", wide, arms),
        Setting("after", base, generators=True, start=True),
    )


TINY = Study("tiny", "Is wider better?", tiny_settings, "narrow", needs_source=True)


def again(folder, recipe=None, data="store", source="source", out="out", seeds=2):
    options = {"seeds": seeds, "progress": False, "source": folder / source}
    return run_study(TINY, recipe or tiny(), folder / data, folder / out, **options)


@pytest.fixture(scope="module")
def one_thread():
    """As many as `Forked` has: only with the same number are trainings the same bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("study")
    make_toy(folder / "store", classes=3, clips=24, signers=4, seed=0)
    make_toy(folder / "source", classes=4, clips=10, signers=2, seed=7)
    found = again(folder)
    return folder, found


def test_a_study_measures_every_setting_arm_and_seed(finished):
    folder, found = finished
    assert len(found["rows"]) == 2 * 2 * 2
    assert len(found["generators"]) == 4
    assert all(0 <= row["top1"] <= 1 for row in found["rows"])
    for row in found["generators"]:
        assert {"mpjpe", "frechet", "nearest_real"} <= set(row)
        assert len(row["per_frame"]) == tiny().generator.model.context
        assert (row["mpjpe_first"], row["mpjpe_last"]) == (row["per_frame"][0], row["per_frame"][-1])
        assert min(row["per_frame"]) <= row["mpjpe"] <= max(row["per_frame"])
    assert json.loads((folder / "out/tiny/study.json").read_text()) == json.loads(json.dumps(found))
    assert found["cpu_seconds"] > 0
    assert f"--data {folder / 'store'}" in found["command"]
    page = (folder / "out/tiny/report.html").read_text()
    assert "Is wider better?" in page
    assert "Transformer-SL, trained on real + synthetic pretraining" in page
    trained = sorted(path.name.rpartition("-")[0] for path in (folder / "out/stages/seed-0").iterdir())
    assert trained.count("generator-forward") == 2, "the first two settings share theirs, the last has its own"
    assert trained.count("unlabelled-forward") == 1
    assert trained.count("transformer-plain") == 4


def test_figures_stand_beside_those_of_real_clips_and_one_classifier_judges_all(finished):
    folder, found = finished
    for row in found["generators"]:
        judged = {"frechet_judged", "coverage_judged", "recognised"}
        assert judged | {"splice_jump", "frechet", "nearest_train"} <= set(row["floor"]) <= set(row)
        assert judged - {"recognised"} | {"frechet", "kl_speed", "pck"} <= set(row["training"]) <= set(row)
    judges = [path for path in (folder / "out/stages/judge").iterdir() if path.is_dir()]
    assert len(judges) == 1
    judge = load(judges[0])
    clips = load_clips(folder / "store", tiny().preprocess)
    part = partition(clips, seed=0)
    assert judge.kind == "transformer_sl"
    train, test = (set(hex_digests(clips.digest[index])) for index in (part.train, part.test))
    assert train <= set(judge.seen_clips)
    assert not test & set(judge.seen_clips)
    titles = {row[0] for row in generator_rows(found)}
    assert {"Fréchet distance", "Fréchet distance of poses", "Nearest training clip"} <= titles


def unfinished(file, count):
    """Cut a study back to its first rows of classifiers."""
    cut = json.loads(file.read_text())
    cut["rows"] = cut["rows"][:count]
    file.write_text(json.dumps(cut))
    return cut


def test_a_stopped_study_measures_only_what_is_missing(finished, monkeypatch):
    folder, found = finished
    before = unfinished(folder / "out/tiny/study.json", 5)
    monkeypatch.setattr(stages_module, "generate", None)  # nothing is generated again
    after = again(folder)
    assert sorted(map(str, after["rows"])) == sorted(map(str, found["rows"]))
    assert after["seconds"] > before["seconds"]
    assert after["cpu_seconds"] > before["cpu_seconds"]


def test_a_study_from_before_a_field_of_recipes_came_goes_on_and_knows_no_time(finished):
    folder, _ = finished
    file = folder / "out/tiny/study.json"
    old = unfinished(file, 7)
    del old["seconds"], old["cpu_seconds"], old["command"]
    for part in ("generator", "transformer", "mamba"):
        for name in ("model", "train", "augment"):
            fields = old["recipe"][part][name]
            old["recipe"][part][name] = {key: value for key, value in fields.items() if key not in LATER}
    assert old["recipe"] != json.loads(json.dumps(asdict(tiny())))
    file.write_text(json.dumps(old))
    after = again(folder)
    assert len(after["rows"]) == 8
    assert "seconds" not in after, "what the first rows took is not known"
    assert "Time" not in dict(origin(after))
    old["recipe"]["pretrain"] = 0.7
    file.write_text(json.dumps(old))
    with pytest.raises(ConfigError, match="another recipe"):
        again(folder)
    file.write_text(json.dumps(after))


def test_a_study_killed_in_the_middle_and_continued_is_the_same_study(finished):
    folder, found = finished
    file = folder / "killed/tiny/study.json"
    process = Forked(again, folder, None, "store", "source", "killed", 1)
    wait_for(lambda: file.exists() and len(json.loads(file.read_text())["rows"]) >= 2, process)
    assert process.kill() != 0, "it had ended before it was killed"
    begun = json.loads(file.read_text())
    assert 2 <= len(begun["rows"]) < 4
    after = again(folder, out="killed", seeds=1)
    assert after["seconds"] > begun["seconds"]
    for name in ("rows", "generators"):
        assert after[name] == [row for row in found[name] if row["seed"] == 0]
    apart = {"rows", "generators", "seeds", "seconds", "cpu_seconds", "command", "machine"}
    assert {name: after[name] for name in after.keys() - apart} == {name: found[name] for name in after.keys() - apart}


def test_two_processes_do_not_work_on_one_study(finished):
    folder, _ = finished
    with locked(folder / "out/tiny"), pytest.raises(TrainingError, match="another process"):
        again(folder)


def test_fewer_seeds_than_are_there_leave_the_others_in_the_report(finished):
    folder, _ = finished
    found = again(folder, seeds=1)
    assert found["seeds"] == 2
    assert "2 seeds" in markdown(found)


def test_a_study_of_nonsense_is_refused_before_it_trains(finished, tmp_path, capfd):
    folder, _ = finished
    make_toy(tmp_path / "same", classes=3, clips=24, signers=4, seed=0)
    with pytest.raises(DataError, match="72 of its clips are in"):
        again(folder, source=tmp_path / "same", out=tmp_path / "out")
    for models in ((), ("linear",)):
        with pytest.raises(ConfigError, match="models is"):
            run_study(STUDIES["tokens"], tiny(), folder / "store", tmp_path / "out", models=models)
    words = ("study", "tokens", "--data", folder / "store", "--out", tmp_path / "out")
    for more, reason in (
        (("--seeds", 0), "seeds is 0"),
        (("--models",), "models is"),
        (("--clips-per-class", 0), "clips"),
        (("--recipe", "large"), "unknown recipe 'large'"),
        (("--only", "words"), "no setting 'words'"),
    ):
        assert reason in one_line_error(capfd, *words, *more)
    assert not (tmp_path / "out/tokens").exists()


def test_a_study_of_other_settings_or_data_is_refused(finished):
    folder, _ = finished
    with pytest.raises(ConfigError, match="another recipe"):
        again(folder, replace(tiny(), pretrain=0.3))
    make_toy(folder / "other", classes=3, clips=8, signers=2, seed=5)
    with pytest.raises(ConfigError, match="other data"):
        again(folder, data="other")
    with pytest.raises(ConfigError, match="another source"):
        again(folder, source="other")


def test_a_recipe_is_chosen_without_the_test_clips(finished, monkeypatch):
    folder, _ = finished
    seen = []
    trained = stages_module.train_classifier

    def noting(data, *args, **options):
        seen.append(data)
        return trained(data, *args, **options)

    monkeypatch.setattr(stages_module, "train_classifier", noting)
    options = {"seeds": 2, "progress": False, "models": ("mamba",), "training_only": True, "only": ("frames",)}
    found = run_study(STUDIES["tokens"], tiny(), folder / "store", folder / "choice", **options)
    assert "groups held out from the training clips" in markdown(found)
    assert found["command"] == (
        f"handcraft study tokens --data {folder / 'store'} --out {folder / 'choice'} --recipe custom.yaml --seeds 2 "
        "--models mamba --only frames --training-only"
    )
    clips = load_clips(folder / "store", tiny().preprocess)
    test = set(clips.ids[partition(clips, seed=0).test])
    assert len(seen) == 4, "one setting, real and after pretraining, two seeds"
    for data in seen:
        assert not test & set(data.clips.ids), "no test clip is even there"
        ours = set(data.clips.group[data.part.test])
        assert ours
        assert not ours & set(data.clips.group[np.concatenate([data.part.train, data.part.valid])])
    with pytest.raises(ConfigError, match="another training_only"):
        run_study(STUDIES["tokens"], tiny(), folder / "store", folder / "choice", **options | {"training_only": False})
    with pytest.raises(ConfigError, match="no setting 'words'; expected some of 'frames', 'dct'"):
        run_study(STUDIES["tokens"], tiny(), folder / "store", folder / "other", only=("words",))


def test_the_command_names_the_studies_for_an_unknown_one(tmp_path, capsys):
    assert run_cli("study", "nothing", "--data", tmp_path, "--out", tmp_path / "out") == 2
    assert "expected one of ratio" in capsys.readouterr().err
