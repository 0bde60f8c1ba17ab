"""The colours of everything drawn: pictures, videos and pages, in light and dark.

Left is blue and right orange, which colour-blind people tell apart too; every picture names them in a legend as well.
Text has a contrast of at least 4.5 to 1 on `ground` and on `stage`, lines of a clip at least 3 to 1 on `stage`.
"""

LIGHT = {
    "ground": "#ffffff",
    "stage": "#f3f5f8",
    "text": "#1c2129",
    "quiet": "#59636f",
    "rule": "#d5dae1",
    "accent": "#1f5fbf",
    "left": "#1f66d1",
    "right": "#cf4a0c",
    "middle": "#5d6774",
}
DARK = {
    "ground": "#0f1318",
    "stage": "#181e26",
    "text": "#e7ebf0",
    "quiet": "#9ca7b4",
    "rule": "#303943",
    "accent": "#7fb0ff",
    "left": "#6fa8ff",
    "right": "#ff9a57",
    "middle": "#a2adba",
}


def css_variables() -> str:
    """The colours as CSS custom properties (`--left`, ...), dark ones where the reader's system is dark."""
    light, dark = ("".join(f"--{name}:{colour};" for name, colour in palette.items()) for palette in (LIGHT, DARK))
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
