"""What `import handcraft` costs and drags in."""

import subprocess
import sys

EXTRAS = (
    *("triton", "mamba_ssm", "causal_conv1d", "mediapipe", "av", "pose_format", "matplotlib", "pandas"),
    *("sklearn", "torchmetrics", "pyarrow", "scipy", "tyro", "rich", "yaml"),
)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_quick_and_needs_nothing_beyond_torch():
    """Processor time, so that a busy machine changes little; what torch itself imports does not count."""
    seconds, new = run(
        "import sys, time, torch; before, start = set(sys.modules), time.process_time(); "
        "import handcraft, handcraft.kernels; "
        f"print(time.process_time() - start, [m for m in {EXTRAS} if m in set(sys.modules) - before], sep='|')"
    ).split("|")
    assert float(seconds) < 0.3
    assert new == "[]"


def test_the_command_line_answers_without_torch():
    assert run("import sys, handcraft.cli; print('torch' in sys.modules, handcraft.__version__[0])") == "False 0"
