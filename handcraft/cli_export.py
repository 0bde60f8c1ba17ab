"""The commands of `handcraft data` that write stores in the field's formats; `cli` says how commands are written."""

from handcraft.cli_data import Command

COMMANDS: dict[tuple[str, ...], Command] = {}
