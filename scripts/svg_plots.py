# SPDX-License-Identifier: Apache-2.0
"""Bar charts and number grids as small SVG files that read on light and dark pages."""
from xml.sax.saxutils import escape

COLOURS = ["#9a9a9a", "#e0913c", "#4c8dd6", "#3fa66b", "#a56fc4", "#d65f6d", "#b8a03a"]
STYLE = """text{font:11px sans-serif;fill:#24292f}.t{font-weight:bold;font-size:12px}
.n{font-size:9px}.g{stroke:#88888855}.r{stroke-dasharray:5 3;stroke-width:1.5}
@media(prefers-color-scheme:dark){text{fill:#d0d7de}}"""


def text(x, y, what, anchor="middle", style=""):
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(str(what))}</text>'


def line(x0, y0, x1, y1, style, stroke=""):
    colour = f' stroke="{stroke}"' if stroke else ""
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" class="{style}"{colour}/>'


def box(x, y, width, height, fill, opacity=1.0):
    shade = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{fill}"{shade}/>')


def step_of(top):
    """A round distance of grid lines: about five of them."""
    power = 10.0 ** (len(str(int(top))) - 1)
    return next(s for s in (power / 5, power / 2, power, power * 2) if top / s <= 6)


def short(value):
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def bar_panel(x, y, width, height, title, groups, series, references=()):
    """groups: names on the axis; series: {name: value or None of each group}; references: (name,
    value) dashed lines across, named at the right end."""
    top = 1.08 * max([v for values in series.values() for v in values if v]
                     + [v for _, v in references])
    at = lambda v: y + height - v / top * height
    out = [text(x + width / 2, y - 12, title, style="t")]
    tick = 0.0
    while tick <= top:
        out += [line(x, at(tick), x + width, at(tick), "g"),
                text(x - 4, at(tick) + 4, f"{tick:g}", "end")]
        tick += step_of(top)
    slot = width / len(groups)
    bar = 0.86 * slot / len(series)
    for g, group in enumerate(groups):
        out.append(text(x + (g + 0.5) * slot, y + height + 14, group))
        for s, values in enumerate(series.values()):
            if values[g]:
                left = x + g * slot + 0.07 * slot + s * bar
                out += [box(left, at(values[g]), bar * 0.92, y + height - at(values[g]),
                            COLOURS[s % len(COLOURS)]),
                        text(left + bar * 0.46, at(values[g]) - 2, short(values[g]), style="n")]
    for i, (name, value) in enumerate(references):
        colour = COLOURS[-1 - i]
        out += [line(x, at(value), x + width, at(value), "r", colour),
                text(x + width + 5, at(value) + 4, f"{name}: {short(value)}", "start", "n")]
    return out


def legend(x, y, names):
    out = []
    for i, name in enumerate(names):
        out += [box(x, y - 9, 10, 10, COLOURS[i % len(COLOURS)]), text(x + 14, y, name, "start")]
        x += 30 + 6.2 * len(name)
    return out


def grid_panel(x, y, cell, title, rows, columns, values, row_axis, column_axis):
    """values[row][column] as numbers on cells: green above 1, orange below."""
    out = [text(x + cell * len(columns) / 2, y - 26, title, style="t"),
           text(x + cell * len(columns) / 2, y + cell * len(rows) + 14, column_axis),
           f'<g transform="rotate(-90 {x - 24} {y + cell * len(rows) / 2})">'
           + text(x - 24, y + cell * len(rows) / 2, row_axis) + "</g>"]
    out += [text(x + (c + 0.5) * cell, y - 6, name) for c, name in enumerate(columns)]
    for r, name in enumerate(rows):
        out.append(text(x - 8, y + (r + 0.6) * cell, name, "end"))
        for c in range(len(columns)):
            value = values[r][c]
            strength = min(1.0, (value - 1) / 3) if value >= 1 else min(1.0, (1 - value) / 0.5)
            out += [box(x + c * cell + 1, y + r * cell + 1, cell - 2, cell - 2,
                        COLOURS[3] if value >= 1 else COLOURS[1], 0.12 + 0.6 * strength),
                    text(x + (c + 0.5) * cell, y + (r + 0.6) * cell, f"{value:.2f}", style="n")]
    return out


def write(path, width, height, elements):
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                    f'width="{width}" height="{height}">\n<!-- SPDX-License-Identifier: Apache-2.0 '
                    f'-->\n<style>{STYLE}</style>\n' + "\n".join(elements) + "\n</svg>\n")
