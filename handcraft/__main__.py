"""`python -m handcraft` is the command `handcraft`; so is `torchrun -m handcraft`, in several processes."""

from handcraft.cli import main

if __name__ == "__main__":
    main()
