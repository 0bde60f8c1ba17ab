"""Which backends the op tests run."""

from handcraft.kernels import dispatch, env


def backends(op):
    """The reference, and every backend that implements the op and runs on this machine's CPU."""
    rules = [rule for rule in dispatch.RULES if rule.op == op and (rule.devices is None or "cpu" in rule.devices)]
    return [name for name in dict.fromkeys(rule.backend for rule in rules) if env.backend(name).available]
