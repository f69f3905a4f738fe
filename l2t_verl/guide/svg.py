"""Drawings as SVG text: a few shapes in named colours, for light and for dark screens."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

# name: (on a light screen, on a dark one)
COLOURS = {
    "paper": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "quiet": ("#59636e", "#9198a1"),
    "line": ("#d1d9e0", "#3d444d"),
    "blue": ("#0969da", "#4493f8"),
    "orange": ("#bc4c00", "#f0883e"),
    "green": ("#1a7f37", "#3fb950"),
    "red": ("#cf222e", "#ff7b72"),
    "purple": ("#8250df", "#bc8cff"),
    "brown": ("#7d5b3a", "#c9a227"),
}
STYLE = """text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.b{font-weight:600}.s{font-size:11.5px}.m{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px}"""


def _rules(dark: bool) -> str:
    rules = (f".f-{name}{{fill:{of[dark]}}}.s-{name}{{stroke:{of[dark]}}}" for name, of in COLOURS.items())
    return "".join(rules)


@dataclass
class Drawing:
    """Shapes in the order in which they are drawn, in pixels from the upper left corner.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        title: what it shows, in words, for those who do not see it.
        shapes: SVG elements.

    Example:
        >>> drawing = Drawing(40, 20, "a line")
        >>> drawing.path([(0, 10), (40, 10)], "ink")
        >>> "M0 10L40 10" in drawing.svg() and "prefers-color-scheme: dark" in drawing.svg()
        True
    """

    width: float
    height: float
    title: str
    shapes: list[str] = field(default_factory=list)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        *,
        opacity: float = 1.0,
        stroke: str | None = None,
        round: float = 0,
    ) -> None:
        """A rectangle."""
        edge = f" s-{stroke}" if stroke else ""
        of = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        corner = f' rx="{round:g}"' if round else ""
        where = f'x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}"'
        self.shapes.append(f'<rect class="f-{fill}{edge}" {where}{of}{corner}/>')

    def path(
        self,
        points: list[tuple[float, float]],
        stroke: str,
        *,
        width: float = 1.5,
        dashed: bool = False,
        opacity: float = 1.0,
        arrow: bool = False,
    ) -> None:
        """A line through points, with a head at its end if `arrow`."""
        through = "L".join(f"{x:.4g} {y:.4g}" for x, y in points)
        more = ' stroke-dasharray="4 4"' * dashed + f' stroke-opacity="{opacity:.2f}"' * (opacity < 1)
        self.shapes.append(f'<path class="s-{stroke}" fill="none" stroke-width="{width:g}"{more} d="M{through}"/>')
        if arrow:
            (x, y), (end_x, end_y) = points[-2:]
            length = ((end_x - x) ** 2 + (end_y - y) ** 2) ** 0.5
            ux, uy = (end_x - x) / length, (end_y - y) / length
            back = [(end_x - 8 * ux - side * 4 * uy, end_y - 8 * uy + side * 4 * ux) for side in (1, -1)]
            head = "L".join(f"{a:.4g} {b:.4g}" for a, b in [(end_x, end_y), *back])
            self.shapes.append(f'<path class="f-{stroke}" d="M{head}Z"/>')

    def dot(self, x: float, y: float, radius: float, fill: str) -> None:
        """A filled circle."""
        self.shapes.append(f'<circle class="f-{fill}" cx="{x:.4g}" cy="{y:.4g}" r="{radius:g}"/>')

    def text(
        self, x: float, y: float, text: str, fill: str = "ink", *, kind: str = "", anchor: str = "start", turn: float = 0
    ) -> None:
        """A line of text on its baseline; `kind` is b (bold), s (small), m (fixed width) or several, with spaces."""
        of = f' text-anchor="{anchor}"' if anchor != "start" else ""
        of += f' transform="rotate({turn:g} {x:.4g} {y:.4g})"' if turn else ""
        name = f"f-{fill} {kind}".strip()
        self.shapes.append(f'<text class="{name}" x="{x:.4g}" y="{y:.4g}"{of}>{escape(text, quote=False)}</text>')

    def svg(self) -> str:
        """The file's text."""
        size = f'viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}"'
        style = f"{STYLE}\n{_rules(False)}\n@media (prefers-color-scheme: dark){{{_rules(True)}}}"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
        paper = f'<rect class="f-paper" width="{self.width:g}" height="{self.height:g}" rx="8"/>'
        parts = [head, f"<title>{escape(self.title)}</title>", f"<style>{style}</style>", paper, *self.shapes, "</svg>"]
        return "\n".join(parts) + "\n"
