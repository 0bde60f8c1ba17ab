"""The shapes that are measured, and how much work one call on each does.

A shape is a frozen dataclass. `work(mode)` counts what the formula itself needs, whoever computes it: bytes that must
come from and go to memory (inputs once, outputs once, parameters in fp32; whatever can stay on chip is not counted),
floating-point operations of matrix products (a multiply-add is two), fp32 multiply-adds outside of them, and
exponentials (logarithms, sines and cosines counted as such). A provider that does more gets no credit for it.
"Training" is forward and backward: a product needs two more of its size.
"""

from dataclasses import dataclass, fields
from typing import Any

from handcraft.config import MambaSLConfig, TransformerSLConfig

CLASSIFIERS = {"transformer_sl": TransformerSLConfig(), "mamba_sl": MambaSLConfig()}
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number


@dataclass(frozen=True)
class Work:
    """What one call needs at least; each field has a ceiling of its own in `ceilings.py`."""

    bytes: int = 0
    matrix_flops: int = 0
    fmas: int = 0
    exps: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)))

    def __mul__(self, n: int) -> "Work":
        return Work(*(n * getattr(self, f.name) for f in fields(Work)))


class Shape:
    """What the tables hold. `unit` names what `items` counts, for rates."""

    unit = "windows"
    batch: int
    dtype: str

    @property
    def items(self) -> int:
        return self.batch

    def label(self) -> str:
        raise NotImplementedError

    def sizes(self) -> dict[str, int]:
        """The op's sizes by the letters that the rules of `dispatch` use."""
        return {}

    def work(self, mode: str) -> Work:
        """Of one call; mode is "forward" or "training"."""
        raise NotImplementedError


def _label(letters: str, *sizes: Any) -> str:
    names = letters.split()
    return " ".join(f"{name}{size}" for name, size in zip(names, sizes, strict=True))


@dataclass(frozen=True)
class DCTLinear(Shape):
    """x (B,T,D) -> (B,T+1,H): [CLS] first and positions, as Transformer-SL has them."""

    batch: int
    frames: int = 32
    dim: int = 180
    width: int = 80
    dtype: str = "float32"

    def label(self) -> str:
        return _label("B T D H", self.batch, self.frames, self.dim, self.width)

    def sizes(self) -> dict[str, int]:
        return {"T": self.frames, "D": self.dim, "H": self.width}

    def work(self, mode: str) -> Work:
        x, out = self.batch * self.frames * self.dim, self.batch * (self.frames + 1) * self.width
        weight = self.width * (self.dim + self.frames + 2)
        # C_T and the weight may be applied in either order: the cheaper one counts
        flops = 2 * x * self.width + 2 * self.batch * self.frames**2 * min(self.dim, self.width)
        s = WIDTH[self.dtype]
        if mode == "forward":
            return Work(s * (x + out) + 4 * weight, flops, out)
        return Work(s * (3 * x + 2 * out) + 12 * weight, 3 * flops, 2 * out)


@dataclass(frozen=True)
class Stack(Shape):
    """K conditional MLP blocks: h (B,D,M), e (B,K,E). One block whose modulation is given has E = 0."""

    batch: int
    frames: int = 16
    dim: int = 180
    blocks: int = 6
    embedding: int = 32
    dtype: str = "float32"

    def label(self) -> str:
        return _label("B M D K", self.batch, self.frames, self.dim, self.blocks)

    def sizes(self) -> dict[str, int]:
        return {"M": self.frames, "D": self.dim}

    def on_chip(self, mode: str) -> Work:
        """Without reading and writing h and e.

        Multiply-adds an element and block, forward: mean and variance 2, normalise, affine, modulate, gate 1 each.
        Backward: the norm's two sums and its combination 5, sums for shift, scale, gate, norm weight and bias 5,
        modulation and gate 2.
        """
        elements = self.batch * self.dim * self.frames
        modulation = self.batch * 3 * self.frames * self.embedding
        flops = 2 * self.blocks * (elements * self.frames + modulation)
        silu = self.blocks * self.batch * self.embedding
        weight = self.blocks * (3 * self.frames * (self.embedding + 1) + 2 * self.dim + self.frames * (self.frames + 1))
        if mode == "forward":
            return Work(4 * weight, flops, 6 * self.blocks * elements, silu)
        return Work(12 * weight, 3 * flops, 18 * self.blocks * elements, 2 * silu)

    def work(self, mode: str) -> Work:
        h, e = self.batch * self.dim * self.frames, self.batch * self.blocks * self.embedding
        s = WIDTH[self.dtype]
        # training reads h and e twice and the output's gradient once, and writes the output and both gradients
        return self.on_chip(mode) + Work(s * (2 * h + e if mode == "forward" else 5 * h + 3 * e))


@dataclass(frozen=True)
class Cmlpe(Stack):
    """The whole generator: x (B,M,D), e (B,K,E)."""

    def label(self) -> str:
        return _label("B M D", self.batch, self.frames, self.dim)

    def on_chip(self, mode: str) -> Work:
        x = self.batch * self.frames * self.dim
        flops = 2 * (2 * x * self.dim) + 2 * (2 * x * self.frames)  # two maps over D, the transform and its inverse
        weight = 2 * self.dim * (self.dim + 1)
        if mode == "forward":
            return super().on_chip(mode) + Work(4 * weight, flops, x)
        return super().on_chip(mode) + Work(12 * weight, 3 * flops, 2 * x)


@dataclass(frozen=True)
class Generate(Cmlpe):
    """Both twins from windows (clips,W,D) in `dtype` to clips (B,W,D) in float16."""

    clips: int = 1024
    unit = "clips"

    def label(self) -> str:
        return _label("B W D", self.batch, 2 * self.frames, self.dim)

    def work(self, mode: str) -> Work:
        elements = self.batch * 2 * self.frames * self.dim
        # standardise, un-standardise; two normals take a logarithm, a cosine and a sine
        ends = Work(elements * (WIDTH[self.dtype] + WIDTH["float16"]), 0, 2 * elements)
        noise = Work(
            0, 0, self.batch * self.blocks * self.embedding, 3 * self.batch * self.blocks * self.embedding // 2
        )
        return (self.on_chip("forward") + noise) * 2 + ends


@dataclass(frozen=True)
class Motion(Shape):
    """Windows (B,M,D) of landmarks in space: those of `motion_norms`, and of `clip_windows`."""

    batch: int
    frames: int = 16
    dim: int = 180
    dtype: str = "float32"
    COORDINATES = 3

    @property
    def landmarks(self) -> int:
        return self.dim // self.COORDINATES

    def label(self) -> str:
        return _label("B M D", self.batch, self.frames, self.dim)

    def sizes(self) -> dict[str, int]:
        return {"M": self.frames, "D": self.dim}

    def work(self, mode: str) -> Work:
        """Forward: errors, their changes and both squares. Training reads everything twice, and each error's gradient
        comes from its own frame and from the changes before and after it."""
        x, ends = self.batch * self.frames * self.dim, 2 * 4 * self.batch * self.frames
        read = 2 * WIDTH[self.dtype] * x + x // self.COORDINATES
        if mode == "forward":
            return Work(read + ends, 0, 4 * x)
        return Work(2 * read + 2 * ends + WIDTH[self.dtype] * x, 0, 11 * x)


@dataclass(frozen=True)
class Windows(Motion):
    """Windows of clips whose frames are read once, although two make one."""

    def label(self) -> str:
        return _label("B W D", self.batch, self.frames, self.dim)

    def work(self, mode: str) -> Work:
        """Between two frames, turned, standardised: two each."""
        x = self.batch * self.frames * self.dim
        rows = self.batch * self.frames * (2 * 8 + 4) + 12 * self.batch
        return Work((WIDTH[self.dtype] + 4) * x + rows + 8 * self.dim, 0, 6 * x)


@dataclass(frozen=True)
class Scan(Shape):
    """Mamba-1 scan with D, z, bias and softplus: u, delta, z (B,D,L), B and C (B,N,L)."""

    batch: int
    dim: int = 128
    length: int = 33
    state: int = 16
    dtype: str = "float32"
    unit = "sequences"

    def label(self) -> str:
        return _label("B D L N", self.batch, self.dim, self.length, self.state)

    def sizes(self) -> dict[str, int]:
        return {"L": self.length, "D": self.dim, "N": self.state}

    def on_chip(self, mode: str) -> Work:
        """Without reading and writing u, delta, z, B, C and y.

        An element of state, forward: exponent, input, recurrence, output, and one exponential. Training computes the
        states again (3, and the exponential), then the recurrence 2, gradients of B, C and u 1 each, of delta 1, of
        A 1, and what those two share 2.
        """
        channels = self.batch * self.dim * self.length
        states = channels * self.state
        weight = self.dim * (self.state + 2)
        if mode == "forward":
            return Work(4 * weight, 0, 4 * states, states + 3 * channels)
        return Work(12 * weight, 0, 16 * states, 2 * states + 6 * channels)

    def work(self, mode: str) -> Work:
        channels, rows = self.batch * self.dim * self.length, self.batch * self.state * self.length
        s = WIDTH[self.dtype]
        # training reads u, delta, z, B, C twice and dy once, and writes y and the five gradients
        return self.on_chip(mode) + Work(
            s * (4 * channels + 2 * rows if mode == "forward" else 11 * channels + 6 * rows)
        )


@dataclass(frozen=True)
class Mamba(Shape):
    """One Mamba-1 block: x (B,L,H)."""

    batch: int
    width: int = 64
    length: int = 33
    state: int = 16
    expand: int = 2
    conv: int = 4
    dtype: str = "float32"
    unit = "sequences"

    def label(self) -> str:
        return _label("B H L", self.batch, self.width, self.length)

    @property
    def inner(self) -> int:
        return self.expand * self.width

    def sizes(self) -> dict[str, int]:
        return {"L": self.length, "H": self.width, "I": self.inner, "N": self.state}

    def work(self, mode: str) -> Work:
        rows, inner, rank = self.batch * self.length, self.inner, -(-self.width // 16)
        weight = inner * (3 * self.width + 2 * rank + 2 * self.state + self.conv + 2)
        flops = 2 * rows * inner * (3 * self.width + 2 * rank + 2 * self.state)
        conv = rows * inner * self.conv
        scan = Scan(self.batch, inner, self.length, self.state).on_chip(mode)
        s = WIDTH[self.dtype] * rows * self.width
        if mode == "forward":
            return scan + Work(2 * s + 4 * weight, flops, conv, rows * inner)
        return scan + Work(5 * s + 12 * weight, 3 * flops, 3 * conv, 2 * rows * inner)


@dataclass(frozen=True)
class Step(Shape):
    """A training step of a model on a batch of windows: forward, backward, clipping, RAdam with Lookahead. width: of a
    classifier, where it is not the default."""

    model: str
    batch: int
    dim: int = 180
    frames: int = 32
    classes: int = 100
    width: int = 0
    dtype: str = "float32"

    def label(self) -> str:
        return f"{self.model} B{self.batch} W{self.frames} D{self.dim}" + f" H{self.width}" * bool(self.width)

    def work(self, mode: str) -> Work:
        if self.model == "cmlpe":
            return Cmlpe(self.batch, self.frames // 2, self.dim).work(mode)
        config, rows, batch = CLASSIFIERS[self.model], self.frames + 1, self.batch
        width = self.width or config.width
        if self.model == "mamba_sl":
            layer = Mamba(batch, width, rows, config.state, config.expand, config.conv).work(mode)
        else:
            weight = width * (4 * width + 2 * config.mlp)  # attention's four maps and the MLP's two
            layer = Work(12 * weight, 3 * (2 * batch * rows * weight + 4 * batch * rows**2 * width))
        head = config.head * (width + self.classes)
        embedding = DCTLinear(batch, self.frames, self.dim, width).work(mode)
        return embedding + layer * config.layers + Work(12 * head, 3 * 2 * batch * head)


@dataclass(frozen=True)
class Disk(Shape):
    """Generation of clips (W,D) by both twins, float16, into memory and into a store. varied: every source is turned,
    scaled and cut anew, as in the recipes for small data."""

    batch: int
    frames: int = 16
    dim: int = 180
    varied: bool = False
    dtype: str = "float32"
    unit = "clips"

    def label(self) -> str:
        return _label("B W D", self.batch, 2 * self.frames, self.dim) + " varied" * self.varied

    def work(self, mode: str) -> Work:
        return Generate(self.batch, self.frames, self.dim).work(mode)


@dataclass(frozen=True)
class Loading(Shape):
    """One epoch of training windows (W,D) from clips of 20 to 60 frames. augment: ours turn and scale each window, the
    files' do not."""

    batch: int
    window: str
    clips: int = 1024
    augment: bool = False
    frames: int = 32
    dim: int = 180
    dtype: str = "float32"
    unit = "clips"

    @property
    def items(self) -> int:
        return self.clips

    def label(self) -> str:
        label = f"{self.window} {_label('N B W D', self.clips, self.batch, self.frames, self.dim)}"
        return label + " augmented" * self.augment

    def work(self, mode: str) -> Work:
        values = self.clips * self.dim
        return Work(4 * values * (40 + self.frames), 0, values * self.frames)


@dataclass(frozen=True)
class Recording(Shape):
    """One recording (T,J,3) as the detector gives it, recognised by a classifier."""

    model: str
    frames: int = 60
    landmarks: int = 553
    batch: int = 1
    dtype: str = "float32"
    unit = "clips"

    def label(self) -> str:
        return f"{self.model} {_label('T J', self.frames, self.landmarks)}"

    def work(self, mode: str) -> Work:
        return Work(12 * self.frames * self.landmarks)


@dataclass(frozen=True)
class Video(Shape):
    """The landmarks of one video file."""

    name: str
    frames: int
    width: int
    height: int
    batch: int = 1
    dtype: str = "uint8"
    unit = "frames"

    @property
    def items(self) -> int:
        return self.frames

    def label(self) -> str:
        return _label("T W H", self.frames, self.width, self.height)

    def work(self, mode: str) -> Work:
        return Work(3 * self.frames * self.width * self.height)
