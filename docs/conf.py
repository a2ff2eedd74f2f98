"""Sphinx settings; ``make docs`` builds the pages, which are plain CommonMark, with MyST."""

import smacv2

project = "The SMACv2 suite"
author = "The SMACv2 suite authors"
release = smacv2.__version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = project
myst_heading_anchors = 3
