"""Draw the picture of docs/report.md: the reliability diagram of a tested run, as the page of the run shows it.

python docs/pictures/report.py output/vit
"""

from __future__ import annotations

import argparse
import re
from importlib.resources import files
from pathlib import Path

from videovit.report.charts import reliability_chart
from videovit.report.page import build_environment
from videovit.report.run_files import read_run

# Of the stylesheet of the page: colors for light and dark, and what charts look like.
COLORS = r":root \{.*?\n\}\n@media screen and \(prefers-color-scheme: dark\) \{.*?\n\}\n"
SHAPES = r"^\.(?:chart text|grid|bar|line|mark)\b.*?\}$"


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of a tested run")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "report_reliability.svg")
    args = parser.parse_args()
    chart = reliability_chart(read_run(args.run).errors["calibration"]["rows"], "videos")
    html = build_environment().get_template("chart.html").render(chart=chart)
    style = (files("videovit.report") / "templates/style.css").read_text(encoding="utf-8")
    found = re.findall(f"{COLORS}|{SHAPES}", style, re.S | re.M)
    rules = "".join(f"{rule.strip()}\n" for rule in found).replace(".chart text", "text")
    svg = re.search(r"<svg (viewBox.*?)</svg>", html, re.S)
    assert svg is not None
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{chart.width:g}" {svg[1]}</svg>'
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    text = opening.replace(">", f">\n<style>\n{rules}</style>\n{paper}", 1)
    args.output.write_text("\n".join(line for line in text.splitlines() if line.strip()) + "\n", encoding="utf-8")
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
