"""Checkpoints: everything comes back, nothing damaged or foreign is accepted, nothing is half written."""

import json
import os
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_clips import PREPROCESS, small_task

import handcraft
from handcraft import checkpoint as checkpoints
from handcraft.checkpoint import load, load_resume, save
from handcraft.data.preprocess import signature
from handcraft.data.recorded import Recorded
from handcraft.errors import CheckpointError
from handcraft.files import sha256_file
from handcraft.state_file import save_state

KINDS = ["cmlpe", "transformer_sl", "mamba_sl"]


@pytest.fixture
def run(tmp_path):
    """A run's folder with the checkpoints of steps 5 and 9, the best being 5."""
    task = small_task("transformer_sl")
    for step in (5, 9):
        found = replace(task.checkpoint(), step=step, metrics={"top1": 0.5, "loss": 1.0 + step})
        save(tmp_path / "run", found, {"count": step, "state": [torch.arange(3)]})
    checkpoints.write_best(tmp_path / "run", 5, {"top1": 0.5, "loss": 6.0})
    return tmp_path / "run"


def rewrite(folder: Path, change) -> None:
    """Edit a checkpoint's config.json in place, as an attacker would: without its checksum."""
    file = folder / "config.json"
    value = json.loads(file.read_text())
    value.pop("checksum", None)
    change(value)
    file.write_text(json.dumps(value))


@pytest.mark.parametrize(("kind", "reverse"), [("cmlpe", True), *((kind, False) for kind in KINDS)])
def test_everything_comes_back(tmp_path, kind, reverse):
    task = small_task(kind, reverse=reverse)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    saved = replace(task.checkpoint(), step=3, metrics={"loss": 0.25}, initial="ab" * 32)
    folder = save(tmp_path, saved)
    found = load(folder)
    assert (found.kind, found.reverse, found.path) == (kind, reverse, tmp_path / "step-00000003")
    plain = "config classes layout preprocess window train augment seed split_hashes seen_clips initial step metrics"
    for name in plain.split():
        assert getattr(found, name) == getattr(saved, name), name
    assert found.seen_clips
    assert found.signature == signature(PREPROCESS)
    assert found.sha256 == sha256_file(folder / "model.safetensors")
    assert torch.equal(found.statistics.mean, saved.statistics.mean)
    assert torch.equal(found.statistics.std, saved.statistics.std)
    assert not found.model.training
    before, after = saved.model.state_dict(), found.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    written = json.loads((folder / "config.json").read_text())
    assert written["versions"] == {"handcraft": handcraft.__version__, "torch": torch.__version__}


def test_a_model_of_centred_clips_has_no_preprocessing(tmp_path):
    found = load(save(tmp_path, replace(small_task("cmlpe").checkpoint(), preprocess=None)))
    assert found.preprocess is None
    assert found.signature is None


def test_how_the_training_clips_were_recorded_comes_back_where_it_is_known(tmp_path):
    told = Recorded(25.0, 1.5, ({"backend": "holistic", "detection": 0.5},))
    folder = save(tmp_path, replace(small_task("cmlpe").checkpoint(), recorded=told))
    assert load(folder).recorded == told
    for change in (
        lambda v: v.update(recorded=None),
        lambda v: v.pop("recorded"),
    ):  # unknown, and an older one
        rewrite(folder, change)
        assert load(folder).recorded is None


def test_a_run_means_its_best_unless_last_is_asked_for(run):
    assert load(run).step == 5
    assert load(run, "last").step == 9
    assert load(run / "step-00000009").step == 9
    (run / "best.json").unlink()
    with pytest.raises(CheckpointError, match=r"no best\.json says which of its checkpoints is the best.*\[5, 9\]"):
        load(run)
    assert load(run, "last").step == 9
    shutil.rmtree(run / "step-00000005")
    assert load(run).step == 9


def test_loading_leaves_the_random_state(run):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    load(run)
    assert torch.equal(torch.get_rng_state(), state)


def test_resume_state_comes_back(run):
    state = load_resume(run / "step-00000009")
    assert state["count"] == 9
    assert torch.equal(state["state"][0], torch.arange(3))


def test_a_checkpoint_works_alone(run, tmp_path):
    """Copied without its run and without the resume state, it predicts the same."""
    shutil.copytree(run / "step-00000009", tmp_path / "alone", ignore=shutil.ignore_patterns("resume.safetensors"))
    shutil.rmtree(run / "step-00000005")
    found = load(tmp_path / "alone")
    x = torch.randn(2, 16, found.config.dim)
    assert torch.equal(found.model(x), load(run, "last").model(x))


def test_an_interrupted_save_leaves_no_checkpoint(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, small_task("cmlpe").checkpoint())
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_never_overwritten(run):
    with pytest.raises(CheckpointError, match="exists already"):
        save(run, replace(small_task("transformer_sl").checkpoint(), step=9))


def test_prune_keeps_what_it_is_told(run):
    (run / "step-1").mkdir()  # not a name of ours
    checkpoints.prune(run, {9})
    assert checkpoints.list_steps(run) == [9]
    assert (run / "step-1").exists()
    assert checkpoints.list_steps(run / "nowhere") == []


@pytest.mark.parametrize("name", ["model.safetensors", "resume.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "absent"])
def test_damaged_files_are_named(run, name, damage):
    folder = run / "step-00000009"
    data = bytearray((folder / name).read_bytes())
    if damage == "flipped":
        data[len(data) // 2 if name != "config.json" else 0] ^= 0xFF
    new = {"truncated": data[: len(data) // 2], "flipped": data, "empty": b"", "absent": None}[damage]
    (folder / name).unlink()
    if new is not None:
        (folder / name).write_bytes(bytes(new))
    with pytest.raises(CheckpointError, match=name):
        load_resume(folder) if name == "resume.safetensors" else load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "resume.safetensors", "config.json"])
def test_links_and_pipes_are_not_opened(run, name, tmp_path):
    folder = run / "step-00000009"
    (folder / name).rename(tmp_path / "moved")
    for make in (lambda path: path.symlink_to(tmp_path / "moved"), os.mkfifo, Path.mkdir):
        make(folder / name)
        with pytest.raises(CheckpointError, match=f"{name}: is (a symbolic link|no ordinary file)"):
            load_resume(folder) if name == "resume.safetensors" else load(folder)
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()


class Malicious:
    def __reduce__(self):
        return open, ("opened.txt", "w")


@pytest.mark.parametrize("name", ["model.safetensors", "resume.safetensors"])
def test_pickled_code_is_refused_unread(run, name, monkeypatch, tmp_path):
    """Also where the check sum was made to fit."""
    monkeypatch.chdir(tmp_path)
    folder = run / "step-00000009"
    if name == "resume.safetensors":
        torch.save({"count": Malicious()}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Malicious()))
    rewrite(folder, lambda value: value["sha256"].update({name: sha256_file(folder / name)}))
    with pytest.raises(CheckpointError, match=name):
        load_resume(folder) if name == "resume.safetensors" else load(folder)
    assert not (tmp_path / "opened.txt").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format_version=3), "version 3"),
        (lambda v: v.update(kind="resnet"), "resnet"),
        (lambda v: v.update(kind=["cmlpe"]), "kind"),
        (lambda v: v.update(kind="cmlpe"), "CMLPeConfig"),
        (lambda v: v["classes"].pop(), "lists 2 class names, but the model has 3"),
        (lambda v: v["classes"].__setitem__(0, 7), "classes"),
        (lambda v: v.update(classes="abc"), "classes"),
        (lambda v: v["model"].update(width=32), r"tensor .*found .*16.*has .*32"),
        (lambda v: v["model"].update(width="16"), "width is '16'"),
        (lambda v: v["model"].update(width=16.0), "width is 16.0"),
        (lambda v: v["model"].update(width=-16), "model.width is -16; expected at least 1"),
        (lambda v: v["model"].update(width=60_000), r"tensor .*found .*16.*has .*60000"),
        (lambda v: v["model"].update(width=1 << 40), "model.width is 1099511627776; expected at least 1 and at most"),
        (lambda v: v["model"].update(layers=60_000), "tensors, too few for the 60000 layers"),
        (lambda v: v["model"].update(frames=8), "window.frames is 16; expected model.frames"),
        (lambda v: v["window"].update(frames=1 << 30), "window.frames is 1073741824"),
        (lambda v: v.update(preprocess=v["preprocess"] | {"smooth_window": 4}, signature=None), "signature|smooth"),
        (lambda v: v.update(classes=v["classes"][::-1]), "classes is"),
        (lambda v: v["classes"].__setitem__(0, "\x1b[2J"), r"classes is \['.x1b"),
        (lambda v: v.update(seen_clips=["../../etc"]), "seen_clips is"),
        (lambda v: v.update(split_hashes={"train": 1}), "split_hashes is"),
        (lambda v: v.update(seed=-1), "seed is"),
        (lambda v: v.update(step=-1), "step is"),
        (lambda v: v.update(preprocess=None, signature=None, layout="nose1"), "layout is"),
        (lambda v: v.update(metrics={"top1": "high"}), "metrics are"),
        (lambda v: v["model"].update(heads=5), "heads"),
        (lambda v: v["model"].update(layers=2), "tensor .layers.1"),
        (lambda v: v["model"].update(tokens="words"), "tokens is 'words'"),
        (lambda v: v["model"].update(colour=1), "colour"),
        (lambda v: v["window"].pop("mode"), "WindowConfig"),
        (lambda v: v.update(train=None), "TrainConfig"),
        (lambda v: v["preprocess"].update(fill=6), "signature"),
        (lambda v: v["statistics"].pop("std"), "statistics"),
        (lambda v: v.update(statistics=None), "statistics"),
        (lambda v: v["statistics"]["mean"].pop(), "statistics"),
        (lambda v: v.update(statistics={"mean": [[0.0]], "std": [[1.0]]}), "statistics"),
        (lambda v: v["statistics"]["std"][0].__setitem__(0, 1e300), "unusable statistics"),
        (lambda v: v.update(statistics={"mean": [[0.0] * 96], "std": [[1.0] * 96]}), "layout pose_hands48"),
        (lambda v: v.update(seed="0"), "seed"),
        (lambda v: v.update(reverse=1), "reverse"),
        (lambda v: v.update(step=True), "step"),
        (lambda v: v.update(seen_clips=[1]), "seen_clips"),
        (lambda v: v.update(metrics=[1]), "metrics"),
        (lambda v: v["sha256"].clear(), "lists no SHA-256"),
        (lambda v: v.update(sha256=None), "sha256"),
        (lambda v: v.update(layout="handcraft60"), "layout"),
        (lambda v: v.update(recorded={"fps": -1}), "recorded is"),
    ],
)
def test_foreign_configs_are_named(run, change, message):
    rewrite(run / "step-00000009", change)
    with pytest.raises(CheckpointError, match=f"config.json.*{message}|model.safetensors.*{message}"):
        load(run / "step-00000009")


def test_a_config_changed_by_accident_is_refused(run):
    """Values that are plausible after a change: a seed, a class name, a digit of a statistic or of a digest."""
    file = run / "step-00000009" / "config.json"
    text, value = file.read_text(), json.loads(file.read_text())
    changes = {'"seed": 0': '"seed": 1', '"sign1"': '"sigm1"', value["seen_clips"][0]: "0" * 16}
    for before, after in (changes | {str(value["statistics"]["mean"][0][0]): "0.125"}).items():
        assert before in text
        file.write_text(text.replace(before, after, 1))
        with pytest.raises(CheckpointError, match=r"config\.json: has been changed since it was written"):
            load(run / "step-00000009")


def test_a_resume_state_that_is_no_dict_is_refused(run):
    folder = run / "step-00000009"
    save_state(folder / "resume.safetensors", [1])
    rewrite(folder, lambda v: v["sha256"].update({"resume.safetensors": sha256_file(folder / "resume.safetensors")}))
    with pytest.raises(CheckpointError, match=r"resume\.safetensors: holds a list"):
        load_resume(folder)


def test_a_config_that_is_no_object_is_named(run):
    (run / "step-00000009" / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="list"):
        load(run / "step-00000009")
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_resume(run / "step-00000009")


def test_weights_of_another_type_are_refused(run):
    folder = run / "step-00000009"
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    for changed in (tensors | {name: tensors[name].half()}, tensors | {"extra": torch.zeros(1)}):
        safetensors.torch.save_file(changed, folder / "model.safetensors")
        rewrite(
            folder,
            lambda value: value["sha256"].update({"model.safetensors": sha256_file(folder / "model.safetensors")}),
        )
        with pytest.raises(CheckpointError, match="tensor"):
            load(folder)


@pytest.mark.parametrize(
    "pointer",
    [
        '{"checkpoint": "../other"}',
        '{"checkpoint": 5}',
        "[]",
        '{"checkpoint": "step-00000009", "step": 5}',
        '{"checkpoint',
    ],
)
def test_a_bad_pointer_is_named(run, pointer):
    (run / "best.json").write_text(pointer)
    with pytest.raises(CheckpointError, match="best"):
        load(run)


def test_a_pointer_to_nothing_is_named(run):
    shutil.rmtree(run / "step-00000005")
    with pytest.raises(CheckpointError, match="step-00000005, which is not there"):
        load(run)


def test_a_link_to_a_checkpoint_elsewhere_is_not_followed(run, tmp_path):
    (run / "step-00000005").rename(tmp_path / "elsewhere")
    (run / "step-00000005").symlink_to(tmp_path / "elsewhere")
    assert checkpoints.list_steps(run) == [9]
    with pytest.raises(CheckpointError, match="step-00000005, which is not there"):
        load(run)


def test_other_paths_are_explained(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        load(tmp_path / "nowhere")
    file = tmp_path / "model.pt"
    torch.save({}, file)
    with pytest.raises(CheckpointError, match="is a file"):
        load(file)
    with pytest.raises(CheckpointError, match="pickled"):
        load(tmp_path)


def test_config_names_every_field_of_the_model(run):
    written = json.loads((run / "step-00000009" / "config.json").read_text())
    assert written["model"] == asdict(load(run, "last").config)
