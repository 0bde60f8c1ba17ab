"""Every choice of the pipeline as frozen dataclasses: plain values, no runtime objects, so that each can be saved
as JSON beside the weights, given as YAML in a recipe, and overridden field by field from the shell.

The models' own configs live here too, since a checkpoint rebuilds its model from one of them.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

LATER = {
    *("accumulate", "precision", "compile", "cuda_graph", "ema", "device"),
    *("missing", "shear", "jitter", "drop_hand", "mirror", "velocity"),
}
"""Fields that came after the first checkpoints: what lacks them was made as their defaults say."""


def completed(kind: type, value: Any) -> Any:
    """The plain values of a config that may have been written before the last of its fields came, with these;
    anything but a dict as it is."""
    if not isinstance(value, dict):
        return value
    return {field.name: field.default for field in fields(kind) if field.name in LATER} | value


@dataclass(frozen=True)
class PreprocessConfig:
    """From detector output to centred landmarks (steps 1 to 4 of preprocessing)."""

    fill: int = 5
    """Longest interior gap, in frames, that is filled linearly within a part."""
    smooth_window: int = 7
    """Savitzky-Golay window in frames; 0 turns smoothing off."""
    smooth_order: int = 2
    """Savitzky-Golay polynomial order."""
    centre: Literal["shoulder", "paper"] = "shoulder"
    """shoulder: subtract the shoulder midpoint and divide by the shoulder width (medians over the clip);
    paper: subtract the first frame's nose, no scale, z of the hands := 0."""
    layout: str = "pose_hands48"
    """Landmark layout that the models see."""
    coordinates: Literal["xyz", "xy"] = "xyz"
    """Coordinates kept per landmark."""
    missing: Literal["keep", "interpolate"] = "keep"
    """What becomes of landmarks that are missing still, in frames of a clip that shows them elsewhere. keep: nothing;
    interpolate: linear between two detections however far apart, and the nearest one before the first and after the
    last."""


@dataclass(frozen=True)
class WindowConfig:
    """From a clip of any length to the W frames a model sees (step 5)."""

    frames: int = 32
    """W."""
    mode: Literal["resample", "wrap", "zero"] = "resample"
    """resample: linear in time over the true length, for shorter and longer clips alike; wrap: repeat a shorter
    clip; zero: pad a shorter clip. wrap and zero crop a longer clip (random in training, centred otherwise)."""


@dataclass(frozen=True)
class AugmentConfig:
    """Batched augmentation of training windows; all zero: off. What synthetic clips are generated from is varied by
    rotation, scale and subwindow alone."""

    rotation: float = 0.0
    """In-plane rotation, uniform in +- this many degrees."""
    scale: float = 0.0
    """Uniform scaling by a factor in 1 +- this."""
    subwindow: float = 1.0
    """Smallest fraction of the clip that a random sub-window covers (resample mode); 1 keeps the whole clip."""
    shear: float = 0.0
    """Moves x by y times a number uniform in +- this."""
    jitter: float = 0.0
    """Standard deviation of noise on every landmark of every frame, in the clips' centred unit."""
    drop_hand: float = 0.0
    """Probability, for each hand by itself, that a window lacks it."""
    mirror: float = 0.0
    """Probability that a window is seen in a mirror, left and right exchanged. For languages and vocabularies in which
    a sign by the other hand is the same sign."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run of the loop. Exactly one of `steps` and `epochs` is positive."""

    steps: int = 0
    """Length of the run in batches; 0 where `epochs` says it."""
    epochs: float = 0.0
    """Length of the run in passes over as many samples as `epoch` has; 0 where `steps` says it."""
    epoch: Literal["balanced", "oversampled"] = "balanced"
    """balanced: an epoch is N_train balanced samples; oversampled: classes x largest class (the paper's)."""
    batch: int = 64
    """Samples a step, of all processes and pieces together."""
    optimizer: Literal["adam", "radam"] = "radam"
    """The paper has adam for its generators and radam for its classifiers."""
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["onecycle", "constant"] = "onecycle"
    """onecycle: the rate rises to `lr` and falls to nearly nothing; constant: it is `lr` throughout."""
    warmup: float = 0.3
    """Fraction of the steps in which the one-cycle rate rises (`pct_start`)."""
    weight_decay: float = 1e-4
    """L2, added to the gradient."""
    lookahead: bool = True
    """Lookahead around the optimizer, k = 5, alpha = 0.5."""
    clip_norm: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    label_smoothing: float = 0.0
    """Share of a classifier's target that is spread over all classes."""
    validate_every: int = 50
    """Steps between validations; the last step always validates."""
    checkpoint_every: int = 50
    """Steps between checkpoints; the last step always writes one."""
    accumulate: int = 1
    """Pieces into which a process cuts its share of a batch, so that a large batch fits into memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the model computes under autocast; weights, losses and validation stay fp32."""
    compile: bool = False
    """Compile the model with torch.compile before training it."""
    cuda_graph: bool = False
    """Replay each step's loss and gradients as one CUDA graph: for small models, whose kernels are shorter than their
    launches. One GPU in one process."""
    ema: float = 0.0
    """Decay a step of the moving average of the weights that is validated and saved as the model; 0: the weights as
    they are."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


@dataclass(frozen=True)
class CMLPeConfig:
    """The generator, docs/method.md. `classes` and `dim` of 0 are filled from the data when the model is built."""

    classes: int = 0
    """Signs; 0: as many as the data has."""
    dim: int = 0
    """D = landmarks x coordinates; 0: the data's."""
    context: int = 16
    """M, context frames in and frames out."""
    blocks: int = 6
    """K, MLP blocks one after the other."""
    embedding: int = 32
    """E, numbers that a sign's embedding has."""
    noise: float = 0.1
    """Standard deviation of the noise on the class embedding, in training and generation."""
    adaln_zero: bool = False
    """Start with gate, shift and scale at zero instead of tiny F_k."""


@dataclass(frozen=True)
class SequentialConfig(CMLPeConfig):
    """The sequential generator: CMLPe, of whose M frames out only the first `step` are kept; they then become context,
    so that a clip can have any length."""

    step: int = 4
    """New frames at a time, at most `context`."""
    rollout: int = 4
    """Times in a row that training continues from what was predicted; step x rollout at most `context`."""


@dataclass(frozen=True)
class TransformerSLConfig:
    """Transformer-SL, docs/method.md."""

    classes: int = 0
    """Signs; 0: as many as the data has."""
    dim: int = 0
    """D = landmarks x coordinates; 0: the data's."""
    frames: int = 32
    """Frames of a window, as `window.frames` of the recipe."""
    tokens: Literal["dct", "frames"] = "dct"
    """dct: the coefficients of the window's cosine transform; frames: the frames as they are, padding masked."""
    velocity: float = 0.0
    """What steps from frame to frame are multiplied with to stand beside the positions in every frame; 0: without."""
    width: int = 80
    """Numbers of a token inside the model."""
    layers: int = 2
    """Encoder layers."""
    heads: int = 4
    """Attention heads of a layer; they divide `width`."""
    mlp: int = 128
    """Width of the hidden layer of each encoder layer's MLP."""
    dropout: float = 0.2
    """Share of numbers dropped in training."""
    head: int = 1024
    """Width of the hidden layer of the classification head."""


@dataclass(frozen=True)
class MambaSLConfig:
    """Mamba-SL, docs/method.md."""

    classes: int = 0
    """Signs; 0: as many as the data has."""
    dim: int = 0
    """D = landmarks x coordinates; 0: the data's."""
    frames: int = 32
    """Frames of a window, as `window.frames` of the recipe."""
    tokens: Literal["dct", "frames"] = "dct"
    """dct: the coefficients of the window's cosine transform; frames: the frames as they are, padding masked."""
    velocity: float = 0.0
    """What steps from frame to frame are multiplied with to stand beside the positions in every frame; 0: without."""
    width: int = 64
    """Numbers of a token inside the model."""
    layers: int = 1
    """Mamba blocks."""
    state: int = 16
    """States of each channel of the selective scan."""
    expand: int = 2
    """Channels of the scan, as a multiple of `width`."""
    conv: int = 4
    """Tokens that the causal convolution before the scan sees."""
    head: int = 1024
    """Width of the hidden layer of the classification head."""


ModelConfig = CMLPeConfig | SequentialConfig | TransformerSLConfig | MambaSLConfig


@dataclass(frozen=True)
class GeneratorRecipe:
    """How the twin generators are trained."""

    model: CMLPeConfig = field(default_factory=CMLPeConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Of the generators' training windows, and of the source clips that they generate from."""
    statistics: Literal["train", "authors"] = "train"
    """What standardises: mean and deviation of the training clips, or the constants of the paper's authors."""
    method: Literal["twins", "sequential"] = "twins"
    """twins: one half of a clip at once from the other half (the paper); sequential: a few frames at a time from the
    ones before, in both directions."""
    step: int = 4
    """sequential: new frames at a time."""
    rollout: int = 4
    """sequential: times in a row that training continues from what was predicted."""


@dataclass(frozen=True)
class TransformerRecipe:
    """How Transformer-SL is trained. `augment` is what the arms "with augmentation" use; the others use none."""

    model: TransformerSLConfig = field(default_factory=TransformerSLConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    finetune: float = 1.0
    """Learning rate on real clips after synthetic pretraining, as a share of `train.lr`."""
    statistics: Literal["train", "authors"] = "train"
    """What standardises: mean and deviation of the training clips, or the constants of the paper's authors."""


@dataclass(frozen=True)
class MambaRecipe:
    """How Mamba-SL is trained."""

    model: MambaSLConfig = field(default_factory=MambaSLConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    finetune: float = 1.0
    """Learning rate on real clips after synthetic pretraining, as a share of `train.lr`."""
    statistics: Literal["train", "authors"] = "train"
    """What standardises: mean and deviation of the training clips, or the constants of the paper's authors."""


@dataclass(frozen=True)
class Recipe:
    """Everything `handcraft run` needs besides the data."""

    name: str = "custom"
    """What reports call it."""
    description: str = ""
    """One line about it, for reports and lists."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    generator: GeneratorRecipe = field(default_factory=GeneratorRecipe)
    transformer: TransformerRecipe = field(default_factory=TransformerRecipe)
    mamba: MambaRecipe = field(default_factory=MambaRecipe)
    synthetic_per_class: int = 100
    """Synthetic clips generated per class for pretraining."""
    pretrain: float = 0.1
    """Share of a classifier's steps spent on synthetic clips first; optimiser and schedule are reset after them."""
    validation_share: float = 0.1
    """Share of the training clips that only choose the best checkpoint; 0: every clip trains, the last one is taken."""
    test_share: float = 0.3
    """Share of the clips wanted in the test split, where the data brings no split of its own."""
