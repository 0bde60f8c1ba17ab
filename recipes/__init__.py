"""The recipes that ship with handcraft, one YAML file each."""
