"""The paper's open questions as experiments that anyone can repeat on any store: `handcraft study NAME`."""
